"""The label bank: what has been labelled, as exemplars for what has not."""
