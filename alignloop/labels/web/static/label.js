// The task page: shows one task, keeps a draft, sends the judgement, shows the next.

import { call, Fault, newKey, Outbox } from "./api.js";
import { compare, marked } from "./diff.js";
import { Guidelines } from "./guidelines.js";
import { composing, forget, letGo, letterOf } from "./input.js";
import { typeset } from "./math.js";
import { element, LETTERS, edit, pair, ranking, scores, thumbs } from "./widgets.js";

const byId = (id) => document.getElementById(id);
const config = JSON.parse(byId("config").textContent);
const t = config.texts;
const makers = { pair, ranking, scores, thumbs, edit };
const outbox = new Outbox(config.owner);
const guidelines = new Guidelines({ owner: config.owner, version: config.guidelines, quiet: Boolean(config.item) });
const view = { raw: false, diff: false };
const DRAFT_MS = 400;
const IDLE_MS = 120000; // longer pauses do not count as time spent
const LOOK_MS = 30000; // between looks for new tasks once none is left

let task = null;
let widget = null;
let flagged = false;
let busy = false;
let draftTimer = 0;
let touched = false;
let lastShown = "";
let loaded = false;
let lookTimer = 0;
const recent = []; // seconds of the last judgements

// Time spent: the page visible, somebody there.
const clock = { seconds: 0, since: null };
function tick() {
  const now = performance.now();
  if (clock.since !== null) clock.seconds += Math.min(now - clock.since, IDLE_MS) / 1000;
  clock.since = document.visibilityState === "visible" ? now : null;
}

function say(text, bad = false) {
  const box = byId("message");
  box.textContent = text;
  box.classList.toggle("bad", bad);
  box.hidden = !text;
}

// Showing

function textBlock({ text, html }, other) {
  if (view.diff && other) {
    const parts = compare(other.text, text);
    if (parts) return marked(parts[1]);
    say(t.js_too_long, true);
  }
  if (view.raw) return element("pre", { class: "plain", dir: "auto" }, text);
  const block = element("div", { class: "markdown bidi", dir: "auto" });
  block.innerHTML = html; // made by the server, which escapes everything in it
  return block;
}

function fillTexts() {
  const roles = {
    user: t.js_you, system: t.js_system, assistant: t.js_assistant, tool: t.js_tool,
    tools: t.js_tools, thinking: t.js_thinking, call: t.js_call,
  };
  byId("prompt").replaceChildren(
    ...task.prompt.map((turn) =>
      element("div", { class: "turn" }, element("div", { class: "role" }, roles[turn.role] ?? turn.role), textBlock(turn)),
    ),
  );
  const [first, second] = task.answers;
  document.querySelectorAll("#answers .text").forEach((slot, place) => {
    slot.replaceChildren(textBlock(task.answers[place], place === 0 ? second : first));
  });
  typeset(byId("work"));
}

function show(next) {
  task = next;
  widget = null;
  loaded = true;
  clearTimeout(draftTimer);
  draftTimer = 0;
  clearTimeout(lookTimer);
  locked(false);
  byId("choices").replaceChildren();
  byId("prompt").hidden = byId("controls").hidden = task === null;
  if (task === null) {
    byId("question").textContent = "";
    byId("prompt").replaceChildren();
    const over = element("div", { class: "card finished" }, element("p", {}, t.js_finished), element("small", {}, t.js_finished_more));
    const others = document.querySelector(".tasks form")?.cloneNode(true);
    if (others) over.append(element("p", {}, t.js_other_tasks), others);
    byId("answers").replaceChildren(over);
    lookTimer = setTimeout(look, LOOK_MS);
    return;
  }
  byId("question").textContent = t[`js_question_${task.kind}`];
  const cards = task.answers.map((_, place) =>
    element(
      "article",
      { class: "card", "aria-label": `${t.js_answer} ${LETTERS[place]}` },
      element("header", {}, element("span", { class: "letter" }, LETTERS[place]), element("span", { class: "rank" })),
      element("div", { class: "text" }),
    ),
  );
  byId("answers").className = `n${cards.length}`;
  byId("answers").replaceChildren(...cards);
  fillTexts();
  touched = false;
  widget = makers[task.kind]({
    cards, answers: task.answers, attributes: config.attributes, choices: byId("choices"), t, changed, submit, say,
  });
  const kept = task.draft ?? { answer: task.previous, flagged: task.flagged, note: task.note };
  if (kept.answer) widget.restore(kept.answer);
  setFlag(kept.flagged === true);
  byId("note").value = kept.note ?? "";
  touched = true;
  changed({ keep: false });
  clock.seconds = 0;
  clock.since = null;
  tick();
  if (lastShown !== String(task.id)) scrollTo(0, 0);
  lastShown = String(task.id);
  if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
}

function showProgress(progress) {
  if (progress.done === undefined) return;
  const total = progress.done + progress.remaining;
  byId("bar").value = total ? progress.done / total : 1;
  const counted = (text, n) => text.replace("#", n);
  const parts = [counted(t.js_done, progress.done), counted(t.js_left, progress.remaining)];
  if (recent.length >= 3) {
    const sorted = [...recent].sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)];
    const hourly = Math.round(3600 / Math.max(median, 0.1));
    parts.push(counted(t.js_each, median.toFixed(median < 10 ? 1 : 0)), counted(t.js_hour, hourly));
  }
  byId("counts").textContent = parts.join(" · ");
  byId("undo").disabled = !progress.can_undo;
  byId("redo").disabled = !progress.can_redo;
}

function setFlag(value) {
  flagged = value;
  byId("flag").setAttribute("aria-pressed", String(value));
}

// Drafts

function changed({ keep = true } = {}) {
  if (!widget) return;
  byId("submit").disabled = busy || widget.value() === null;
  if (!keep || !touched) return;
  clearTimeout(draftTimer);
  draftTimer = setTimeout(saveDraft, DRAFT_MS);
}

function draft() {
  return { answer: widget.partial(), note: byId("note").value, flagged };
}

function saveDraft({ keepalive = false } = {}) {
  draftTimer = 0;
  if (!task || busy || config.item) return;
  // A draft is a convenience: if it cannot be saved now, the next change tries again.
  call("draft", { assignment: task.id, draft: draft() }, { keepalive }).catch(() => {});
}

// Sending

function locked(value) {
  busy = value;
  byId("work").setAttribute("aria-busy", String(value));
  for (const id of ["skip", "flag"]) byId(id).disabled = value;
  byId("submit").disabled = value || !widget || widget.value() === null;
}

function waiting(fault) {
  const texts = { full: t.js_full, offline: t.js_offline };
  say(texts[fault.reason] ?? t.js_busy, true);
}

async function deliver(submission) {
  locked(true);
  clearTimeout(draftTimer);
  draftTimer = 0;
  try {
    const receipt = await outbox.send(submission, waiting);
    recent.push(submission.seconds);
    if (recent.length > 20) recent.shift();
    if (config.item) return location.assign(config.back);
    say("");
    show(receipt.task);
    showProgress(receipt.progress);
    await heed(receipt);
  } catch (fault) {
    await recover(fault);
  }
}

async function recover(fault) {
  if (!(fault instanceof Fault)) throw fault;
  if (fault.status === 409 || fault.status === 410) {
    await load();
    say(fault.status === 410 ? t.js_withdrawn : t.js_conflict, true);
  } else if (fault.status === 403) {
    locked(false);
    widget = null;
    byId("controls").hidden = true;
    byId("work").dataset.over = "true";
    say(fault.reason === "removed" ? t.js_removed : t.js_session, true);
  } else {
    locked(false);
    const known = t[`js_reason_${fault.reason}`];
    const told = known ? `${known} (${fault.message})` : fault.message;
    say(fault.transient ? t.js_no_network : `${t.js_error} ${told}`, true);
  }
}

async function heed(receipt) {
  if (await guidelines.heed(receipt)) say(t.js_new_guidelines);
}

function submission(extra) {
  tick();
  return {
    assignment: task.id,
    expected: task.expected,
    key: newKey(),
    flagged,
    note: byId("note").value,
    guidelines: guidelines.version,
    seconds: Math.round(clock.seconds * 100) / 100,
    ...extra,
  };
}

function submit() {
  if (busy || !widget) return;
  const answer = widget.value();
  if (answer === null) say(t.js_incomplete);
  else deliver(submission({ answer }));
}

function skip(reason) {
  byId("skip-dialog").close();
  if (!busy && task) deliver(submission({ skip: reason }));
}

async function walk(path, text) {
  if (busy || config.item) return;
  if (draftTimer) {
    // What was just typed must be there when its task comes back.
    clearTimeout(draftTimer);
    saveDraft();
  }
  locked(true);
  const key = newKey();
  try {
    const receipt = await call(path, { key }).catch((fault) => {
      // The same key once more: an answer that was lost must not undo twice.
      if (fault.status !== 0) throw fault;
      return call(path, { key });
    });
    show(receipt.task);
    showProgress(receipt.progress);
    say(text);
  } catch (fault) {
    if (["undo", "redo"].includes(fault.reason)) {
      locked(false);
      say(t.js_nothing);
    } else await recover(fault);
  }
}

async function load() {
  locked(true);
  try {
    const receipt = await call(config.item ? `adjudicate/${config.item}` : "next");
    show(receipt.task);
    showProgress(receipt.progress);
    await heed(receipt);
  } catch (fault) {
    await recover(fault);
  }
}

// Nothing is left: others may give items back, and new ones may be queued.
async function look() {
  if (document.visibilityState === "visible") {
    const receipt = await call("next").catch(() => null);
    if (receipt?.task && task === null && !busy) {
      show(receipt.task);
      showProgress(receipt.progress);
      return;
    }
  }
  if (task === null) lookTimer = setTimeout(look, LOOK_MS);
}

// Input

function toggleView(name) {
  view[name] = !view[name];
  byId(name).setAttribute("aria-pressed", String(view[name]));
  if (task) fillTexts();
}

const openSkip = () => task && !busy && byId("skip-dialog").showModal();
const toggleFlag = () => {
  setFlag(!flagged);
  changed();
};

const shortcuts = {
  S: openSkip,
  F: toggleFlag,
  N: () => byId("note").focus(),
  Z: () => walk("undo", t.js_undone),
  Y: () => walk("redo", t.js_redone),
  R: () => toggleView("raw"),
  D: () => toggleView("diff"),
  G: () => guidelines.toggle(),
};

function onKey(event) {
  if (composing(event) || event.altKey || event.metaKey || event.ctrlKey) return;
  const dialog = document.querySelector("dialog[open]");
  if (dialog) {
    const reason = dialog.id === "skip-dialog" && dialog.querySelectorAll("[value]")[Number(event.key) - 1];
    if (reason) reason.click();
    return;
  }
  const field = event.target.closest("input, textarea, select");
  if (field) {
    if (event.key === "Escape") field.blur();
    if (field.id !== "note" || event.key !== "Enter" || event.shiftKey) return;
  }
  let used = true;
  if (event.key === "Enter") {
    // Enter on a focused button presses that button.
    if (event.target.closest("button:not([role=radio]), a, summary")) return;
    // A key held down must not judge what comes next.
    if (!event.repeat) submit();
  } else if (event.key === "?") byId("help-dialog").showModal();
  else if (widget && !busy && widget.key(event)) used = true;
  else if (shortcuts[letterOf(event)] && !event.repeat) shortcuts[letterOf(event)]();
  else used = false;
  if (used) event.preventDefault();
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", letGo);
document.querySelectorAll("dialog").forEach(forget);
byId("submit").addEventListener("click", submit);
byId("skip").addEventListener("click", openSkip);
byId("flag").addEventListener("click", toggleFlag);
byId("undo").addEventListener("click", shortcuts.Z);
byId("redo").addEventListener("click", shortcuts.Y);
byId("raw").addEventListener("click", shortcuts.R);
byId("diff").addEventListener("click", shortcuts.D);
byId("help").addEventListener("click", () => byId("help-dialog").showModal());
byId("note").addEventListener("input", () => changed());
for (const button of document.querySelectorAll(".reasons button")) {
  button.addEventListener("click", () => skip(button.value));
}
document.addEventListener("visibilitychange", tick);
for (const name of ["keydown", "pointerdown", "scroll"]) addEventListener(name, tick, { passive: true });
addEventListener("pagehide", () => {
  if (draftTimer) saveDraft({ keepalive: true });
});
// The back button may bring back a page as it was; what it shows may be judged already.
addEventListener("pageshow", (event) => event.persisted && load());

const unsent = outbox.pending();
if (unsent && !config.item) {
  await deliver(unsent);
  // It was refused for good: what was shown then is gone, but its task or the next one is there.
  if (!loaded && !byId("work").dataset.over) await load();
} else load();
