// The conversation, its answers as they come, and what the reader thinks of them.

const t = JSON.parse(document.body.dataset.texts);
const keepsVotes = document.body.dataset.votes !== "";
const $ = (id) => document.getElementById(id);

// messages: what both models are asked with next. turn: the newest question with its answers.
const state = { messages: [], turn: null, abort: null };

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function tell(text) {
  $("message").hidden = !text;
  $("message").textContent = text;
}

// Requests

async function send(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(t.offline);
  }
  if (response.status === 401) throw new Error(t.need_key);
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    throw new Error(told?.error?.message ?? `HTTP ${response.status}`);
  }
  return response;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function fill(answer, messages, signal) {
  const body = { model: answer.model, messages, stream: true };
  body.temperature = $("temperature").valueAsNumber;
  body.max_tokens = $("max-tokens").valueAsNumber;
  for (const name of ["temperature", "max_tokens"]) if (Number.isNaN(body[name])) delete body[name];
  for await (const event of events(await send("/v1/chat/completions", body, signal))) {
    const choice = event.choices[0];
    answer.thoughts += choice?.delta?.reasoning_content ?? "";
    answer.text += choice?.delta?.content ?? "";
    answer.finish = choice?.finish_reason ?? answer.finish;
    answer.view.textContent = answer.thoughts ? `${answer.thoughts}\n\n${answer.text}` : answer.text;
  }
}

// A turn: a question and one or two answers

function asMessage(answer) {
  const message = { role: "assistant", content: answer.text };
  if (answer.thoughts) message.reasoning_content = answer.thoughts;
  return message;
}

function chosenModels() {
  const models = [$("model").value];
  if ($("other").value) models.push($("other").value);
  // The order must not tell which model is which.
  return models.length === 2 && Math.random() < 0.5 ? models.reverse() : models;
}

function showTurn(turn) {
  const item = make("li", "turn");
  const two = turn.answers.length === 2;
  const grid = make("div", two ? "answers two" : "answers");
  turn.answers.forEach((answer, place) => {
    const card = make("section", "card");
    answer.name = make("div", "who", two ? `${t.answer} ${place + 1}` : answer.model);
    answer.view = make("div", "text");
    answer.card = card;
    card.append(answer.name, answer.view);
    grid.append(card);
  });
  turn.foot = make("div", "votes");
  item.append(grid, turn.foot);
  $("talk").append(item);
  turn.item = item;
  if (two && !$("blind").checked) reveal(turn);
}

function reveal(turn) {
  if (turn.answers.length === 2)
    turn.answers.forEach((answer, place) => (answer.name.textContent = `${t.answer} ${place + 1} · ${answer.model}`));
}

async function answerNow() {
  const turn = { prompt: [...state.messages], answers: chosenModels().map((model) => ({ model, text: "", thoughts: "", finish: null })) };
  state.turn = turn;
  showTurn(turn);
  busy(true);
  const { signal } = (state.abort = new AbortController());
  const results = await Promise.allSettled(turn.answers.map((answer) => fill(answer, turn.prompt, signal)));
  busy(false);
  const failed = results.find((result) => result.status === "rejected" && result.reason.name !== "AbortError");
  if (failed) {
    tell(failed.reason.message);
    turn.failed = true;
  }
  for (const answer of turn.answers) {
    if (!answer.text.trim() && !answer.thoughts) answer.view.textContent = t.empty;
    if (answer.finish === "length") answer.card.append(make("div", "note", t.cut));
  }
  if (!failed && keepsVotes && turn.answers.every((answer) => answer.text.trim())) offerVotes(turn);
  turn.item.scrollIntoView({ block: "nearest" });
  $("question").focus();
}

function offerVotes(turn) {
  const verdicts = turn.answers.length === 2 ? ["a", "tie", "b", "both_bad"] : ["good", "bad"];
  for (const verdict of verdicts) {
    const button = make("button", "", t[verdict]);
    button.type = "button";
    button.dataset.verdict = verdict;
    button.addEventListener("click", () => vote(turn, verdict));
    turn.foot.append(button);
  }
}

async function vote(turn, verdict) {
  const buttons = [...turn.foot.querySelectorAll("button")];
  buttons.forEach((button) => (button.disabled = true));
  const answers = turn.answers.map(({ text, model, thoughts }) => ({ text, model, reasoning_content: thoughts }));
  try {
    const receipt = await (await send("/api/vote", { prompt: turn.prompt, answers, verdict })).json();
    tell("");
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
    turn.foot.append(make("span", "note", `${t.kept} ${receipt.kept}`));
    turn.verdict = verdict;
    reveal(turn);
    if (turn === state.turn && turn.answers.length === 2) choose(turn);
    turn.foot.scrollIntoView({ block: "nearest" });
  } catch (error) {
    buttons.forEach((button) => (button.disabled = false));
    tell(error.message);
  }
}

// The answer with which a conversation goes on: the better one, the first without a judgement.
const kept = (turn) => (turn.verdict === "b" ? 1 : 0);

function choose(turn) {
  turn.answers[kept(turn)].card.classList.add("chosen");
  turn.foot.append(make("span", "note", `${t.continues} ${kept(turn) + 1}`));
}

// Controls

function busy(now) {
  $("send").disabled = now;
  $("stop").hidden = !now;
  $("retry").disabled = now || !state.turn;
  $("fresh").disabled = now;
}

async function ask() {
  const text = $("question").value;
  if (!text.trim() || $("send").disabled) return;
  tell("");
  const { turn } = state;
  if (turn?.failed) dropTurn();
  else if (turn) state.messages = [...turn.prompt, asMessage(turn.answers[kept(turn)])];
  if (turn && !turn.failed) turn.foot.querySelectorAll("button").forEach((button) => (button.disabled = true));
  if (!state.messages.length && $("system").value.trim())
    state.messages.push({ role: "system", content: $("system").value });
  state.messages.push({ role: "user", content: text });
  $("question").value = "";
  const item = make("li", "question");
  item.append(make("div", "who", t.you), make("div", "text", text));
  $("talk").append(item);
  item.scrollIntoView({ block: "nearest" });
  await answerNow();
}

// A question whose answer failed is taken back, so that the next one does not follow it.
function dropTurn() {
  state.turn.item.previousElementSibling.remove();
  state.turn.item.remove();
  state.messages = state.turn.prompt.slice(0, -1);
  if (state.messages.at(-1)?.role === "system") state.messages = [];
  state.turn = null;
}

async function retry() {
  if (!state.turn || $("retry").disabled) return;
  tell("");
  state.turn.item.remove();
  state.messages = state.turn.prompt;
  await answerNow();
}

function fresh() {
  Object.assign(state, { messages: [], turn: null });
  $("talk").replaceChildren();
  tell("");
  busy(false);
  $("question").focus();
}

async function listModels() {
  try {
    const { data } = await (await send("/v1/models")).json();
    for (const id of ["model", "other"]) {
      const known = [...$(id).options].map((option) => option.value);
      for (const { id: name } of data) if (!known.includes(name)) $(id).add(new Option(name, name));
    }
    tell("");
  } catch (error) {
    tell(error.message);
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("question").addEventListener("keydown", (event) => {
  // While a Korean syllable is being put together, Enter ends the syllable.
  // Safari reports that Enter after the end of the syllable, with keyCode 229.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  ask();
});
$("stop").addEventListener("click", () => state.abort?.abort());
$("retry").addEventListener("click", retry);
$("fresh").addEventListener("click", fresh);
$("other").addEventListener("change", () => ($("blind-field").hidden = !$("other").value));
$("key").value = sessionStorage.getItem("alignloop.key") ?? "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("alignloop.key", $("key").value);
  listModels();
});
listModels();
