// Numbers and times as people read them.

const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const CLOCK = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export const moment = (iso) => formatted(MOMENT, iso);
export const day = (iso) => formatted(DAY, iso);
export const clock = (iso) => formatted(CLOCK, iso);
// A date without a time is a day, wherever one is.
export const date = (text) => formatted(DAY, `${text}T12:00`);

function formatted(format, iso) {
  const time = new Date(iso);
  return iso && !Number.isNaN(time.getTime()) ? format.format(time) : "";
}

export const known = (value) => value !== null && value !== undefined;

export const dice = (value) => (known(value) ? value.toFixed(3) : "?");

export function signed(value) {
  if (!known(value)) return "?";
  const text = Math.abs(value).toFixed(3);
  return Number(text) === 0 ? `±${text}` : `${value < 0 ? "−" : "+"}${text}`;
}

export const between = (low, high, shown) => (known(low) && known(high) ? `${shown(low)} to ${shown(high)}` : "");

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

export function duration(seconds) {
  if (seconds < 90) return count(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 5400) return count(Math.round(seconds / 60), "minute");
  const hours = Math.floor(seconds / 3600 + 1 / 120);
  const minutes = Math.round((seconds - hours * 3600) / 60);
  return minutes > 0 ? `${hours} h ${minutes} min` : `${hours} h`;
}
