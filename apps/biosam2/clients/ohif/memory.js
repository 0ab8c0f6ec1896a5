// What the browser remembers: of a tab from case to case, and of the person for good.

const GIVEN = "biosam2-given";
const TAB = "biosam2-tab";
const FINDS = "biosam2-finds-in-next";

// Lists of the tab.
export const DONE = "biosam2-submitted"; // series
export const TYPED = "biosam2-structures"; // names that the person typed

export const remembered = (key) => JSON.parse(sessionStorage.getItem(key) ?? "[]");
export const remember = (key, value) => sessionStorage.setItem(key, JSON.stringify([...remembered(key), value]));

// By this name the server knows whose case is whose; each tab has its own.
export function tab() {
  if (!sessionStorage.getItem(TAB)) {
    sessionStorage.setItem(TAB, `ohif-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`);
  }
  return sessionStorage.getItem(TAB);
}

// A series was given to this tab as its next case.
export const give = (series) => sessionStorage.setItem(GIVEN, series);

// Whether a series is the one that was given last: true the first time that this is asked.
export function wasGiven(series) {
  const is = sessionStorage.getItem(GIVEN) === series;
  if (is) sessionStorage.removeItem(GIVEN);
  return is;
}

// Whether the structures are to be found in every next case without being asked for.
export const findsInNext = () => localStorage.getItem(FINDS) !== null;

export function setFindsInNext(wanted) {
  if (wanted) localStorage.setItem(FINDS, "yes");
  else localStorage.removeItem(FINDS);
}
