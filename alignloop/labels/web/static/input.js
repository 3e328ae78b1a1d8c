// What a key press or a click means before the page acts on it.

const COMMIT_MS = 150; // an Enter this soon after a syllable ended is the one that ended it

let ended = -Infinity;
addEventListener("compositionend", (event) => (ended = event.timeStamp), { capture: true });

// True while an input method puts a syllable together, and for the Enter that ends it. Safari reports that
// Enter after `compositionend`, with isComposing false and keyCode 229; some Windows input methods report a
// second, plain one.
export function composing(event) {
  if (event.isComposing) return true;
  const field = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (event.keyCode === 229 && (field || event.key === "Enter")) return true;
  return event.key === "Enter" && event.timeStamp - ended < COMMIT_MS;
}

// The Latin letter of a key, also while a Korean keyboard is switched to Hangul; null for other keys.
export function letterOf(event) {
  if (/^[a-z]$/i.test(event.key)) return event.key.toUpperCase();
  return /^[\x20-\x7e]$/.test(event.key) ? null : (/^Key([A-Z])$/.exec(event.code)?.[1] ?? null);
}

// A clicked button keeps the focus, and Enter would press it again; the page's Enter is "submit".
export function letGo(event) {
  const pressed = event.target.closest?.("button, summary, a");
  if (event.detail > 0 && pressed && pressed === document.activeElement) pressed.blur();
}

// A dialog that closes gives the focus back to the button that opened it.
export function forget(dialog) {
  dialog.addEventListener("close", () => document.activeElement?.blur?.());
}
