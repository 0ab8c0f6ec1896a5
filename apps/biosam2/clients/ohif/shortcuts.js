// Keys. None of them is bound by OHIF 3.8 to 3.10 (which uses + - = z r l h v c i, digits, arrows, paging keys,
// comma, full stop, space and escape), nor by its own modes.

export const KEYS = {
  inside: "a",
  outside: "s",
  box: "d",
  find: "g",
  propagate: "f",
  cancel: "q",
  undo: "u",
  redo: "y",
  structure: "t",
  submit: "Shift+S",
  next: "Shift+N",
};

// actions: a function for each of the above.
export function listen(actions) {
  const byKey = new Map(Object.entries(KEYS).map(([name, key]) => [key, actions[name]]));
  const handle = (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || isTyping(event.composedPath()[0])) return;
    const action = byKey.get(event.shiftKey ? `Shift+${event.key.toUpperCase()}` : event.key.toLowerCase());
    if (!action) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    action();
  };
  window.addEventListener("keydown", handle, { capture: true });
}

// A chosen radio button takes arrow keys only: after picking a structure the letters are still shortcuts.
const TYPED = "input:not([type=radio], [type=checkbox], [type=button]), textarea, select";

function isTyping(element) {
  return element instanceof HTMLElement && (element.isContentEditable || element.matches(TYPED));
}
