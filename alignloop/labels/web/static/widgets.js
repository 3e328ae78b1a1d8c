// How each task is answered. A widget is made for one task shown, in displayed order, and has
//   value()     what is sent, or null while incomplete
//   partial()   what a draft keeps
//   restore(v)  puts a draft or an earlier answer back
//   key(event)  true if it used the key
// It calls changed() whenever its input changed. Nothing is chosen beforehand.

import { compare, marked } from "./diff.js";
import { composing, letterOf } from "./input.js";

export const LETTERS = "ABCDE";

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const digit = (event) => (/^[0-9]$/.test(event.key) ? Number(event.key) : null);

// Which key does what, where the buttons themselves do not show it.
const keyLine = (text) =>
  element("p", { class: "hint keys" }, ...text.split(/(`[^`]+`)/).map((part) => (part[0] === "`" ? element("kbd", {}, part.slice(1, -1)) : part)));

function radios(label, options, onPick) {
  const group = element("div", { class: "options", role: "radiogroup", "aria-label": label });
  for (const { value, text, title = text, kind = "" } of options) {
    const button = element(
      "button",
      { type: "button", role: "radio", "aria-checked": "false", class: kind, title, "aria-label": `${label}: ${title}` },
      text,
    );
    button.dataset.value = value;
    button.addEventListener("click", () => onPick(value));
    group.append(button);
  }
  return {
    group,
    show(value) {
      for (const button of group.children) {
        button.setAttribute("aria-checked", String(value !== null && button.dataset.value === String(value)));
      }
    },
  };
}

export function pair({ cards, choices, t, changed }) {
  const verdicts = [
    ["a_much", "A ≫ B", "1"], ["a", "A > B", "2"], ["tie", "A = B", "3"],
    ["b", "B > A", "4"], ["b_much", "B ≫ A", "5"], ["both_bad", "✕", "0"],
  ];
  let chosen = null;
  const bar = element("div", { class: "verdicts", role: "radiogroup", "aria-label": t.js_question_pair });
  for (const [verdict, sign, key] of verdicts) {
    const button = element(
      "button",
      { type: "button", role: "radio", "aria-checked": "false", class: verdict === "both_bad" ? "both" : "", "aria-label": t[`js_${verdict}`] },
      element("span", { class: "sign" }, sign, " "),
      element("small", {}, t[`js_${verdict}`]),
      element("kbd", {}, key),
    );
    button.dataset.verdict = verdict;
    button.addEventListener("click", () => choose(verdict));
    bar.append(button);
  }
  choices.append(bar);
  function choose(verdict) {
    chosen = verdict;
    for (const button of bar.children) button.setAttribute("aria-checked", String(button.dataset.verdict === verdict));
    cards[0].classList.toggle("chosen", verdict === "a" || verdict === "a_much");
    cards[1].classList.toggle("chosen", verdict === "b" || verdict === "b_much");
    changed();
  }
  return {
    value: () => (chosen ? { verdict: chosen } : null),
    partial: () => ({ verdict: chosen }),
    restore: (value) => verdicts.some(([verdict]) => verdict === value.verdict) && choose(value.verdict),
    key(event) {
      const found = verdicts.find(([, , key]) => key === event.key);
      if (found) choose(found[0]);
      return Boolean(found);
    },
  };
}

export function ranking({ cards, choices, t, changed, say }) {
  const ranks = cards.map(() => null);
  const ordinals = t.js_ordinals.split(" ");
  let order = []; // places in the order they were ranked by key
  let tie = false;
  const rows = cards.map((card, place) => {
    const options = cards.map((_, k) => ({ value: k + 1, text: ordinals[k] }));
    const row = radios(`${t.js_rank} ${LETTERS[place]}`, options, (rank) => {
      ranks[place] = ranks[place] === rank ? null : rank;
      order = [...order.filter((p) => p !== place), ...(ranks[place] === null ? [] : [place])];
      tie = false;
      show();
    });
    card.append(element("div", { class: "inputs" }, element("div", { class: "cell" }, t.js_rank, row.group)));
    return row;
  });
  choices.append(keyLine(t.js_keys_ranking.replaceAll("#L", LETTERS[cards.length - 1]).replaceAll("#N", cards.length)));
  // The rank that the next key gives: the best one that no answer has, also after some were clicked.
  function next() {
    if (tie && order.length) return ranks[order.at(-1)];
    return cards.map((_, k) => k + 1).find((rank) => !ranks.includes(rank)) ?? cards.length;
  }
  function show() {
    rows.forEach((row, place) => {
      row.show(ranks[place]);
      cards[place].classList.toggle("chosen", ranks[place] === 1);
      const chip = cards[place].querySelector(".rank");
      chip.classList.toggle("set", ranks[place] !== null);
      if (ranks[place] !== null) chip.replaceChildren(ordinals[ranks[place] - 1]);
      else {
        const keys = [element("kbd", {}, LETTERS[place]), " ", element("kbd", {}, String(place + 1))];
        chip.replaceChildren(...keys, ` → ${ordinals[next() - 1]}`);
      }
    });
    changed();
  }
  function place(event) {
    const letter = LETTERS.indexOf(letterOf(event) ?? " ");
    const found = letter >= 0 ? letter : digit(event) === null ? -1 : digit(event) - 1;
    return found < cards.length ? found : -1;
  }
  show();
  return {
    value: () => (ranks.every((rank) => rank !== null) ? { ranks: [...ranks] } : null),
    partial: () => ({ ranks: [...ranks] }),
    restore(value) {
      (value.ranks ?? []).slice(0, cards.length).forEach((rank, place) => (ranks[place] = rank));
      order = ranks.map((_, p) => p).filter((p) => ranks[p] !== null).sort((a, b) => ranks[a] - ranks[b]);
      show();
    },
    key(event) {
      const chosen = place(event);
      if (event.key === "=") tie = order.length > 0;
      else if (event.key === "Backspace") {
        const last = order.pop();
        if (last !== undefined) ranks[last] = null;
        tie = false;
      } else if (chosen < 0) return false;
      else if (ranks[chosen] !== null) say(t.js_ranked.replace("#", LETTERS[chosen]));
      else {
        ranks[chosen] = next();
        order.push(chosen);
        tie = false;
        say("");
      }
      show();
      return true;
    },
  };
}

// Scores and thumbs: cells that are filled one after the other.
function cells({ list, parse, changed }) {
  const values = list.map(() => null);
  let active = 0;
  function show() {
    list.forEach((cell, k) => {
      cell.row.show(values[k]);
      cell.box.classList.toggle("active", k === active);
    });
    changed();
  }
  function pick(k, value) {
    values[k] = value;
    const next = values.findIndex((v, i) => i > k && v === null);
    active = next >= 0 ? next : Math.min(k + 1, list.length - 1);
    show();
    list[active].box.scrollIntoView({ block: "nearest" });
  }
  return {
    values,
    pick,
    show,
    key(event) {
      const value = parse(event);
      if (value !== null) pick(active, value);
      else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        active = Math.max(0, Math.min(list.length - 1, active + (event.key === "ArrowDown" ? 1 : -1)));
        show();
      } else if (event.key === "Backspace") {
        if (values[active] === null && active > 0) active--;
        values[active] = null;
        show();
      } else return false;
      return true;
    },
  };
}

export function scores({ cards, attributes, choices, t, changed }) {
  const list = [];
  let grid = null;
  cards.forEach((card, place) => {
    const inputs = element("div", { class: "inputs" });
    for (const attribute of attributes) {
      const k = list.length;
      const options = [0, 1, 2, 3, 4, 5].map((score) => ({ value: score, text: String(score) }));
      const row = radios(`${attribute} ${LETTERS[place]}`, options, (score) => grid.pick(k, score));
      const box = element("div", { class: "cell" }, attribute, row.group);
      inputs.append(box);
      list.push({ row, box });
    }
    card.append(inputs);
  });
  const parse = (event) => (digit(event) !== null && digit(event) <= 5 ? digit(event) : null);
  choices.append(keyLine(t.js_keys_scores));
  grid = cells({ list, parse, changed });
  const body = () =>
    Object.fromEntries(attributes.map((name, a) => [name, cards.map((_, p) => grid.values[p * attributes.length + a])]));
  grid.show();
  return {
    value: () => (grid.values.every((v) => v !== null) ? { scores: body() } : null),
    partial: () => ({ scores: body() }),
    restore(value) {
      attributes.forEach((name, a) =>
        (value.scores?.[name] ?? []).slice(0, cards.length).forEach((v, p) => (grid.values[p * attributes.length + a] = v)),
      );
      grid.show();
    },
    key: grid.key,
  };
}

export function thumbs({ cards, choices, t, changed }) {
  let grid = null;
  const list = cards.map((card, place) => {
    const options = [
      { value: true, text: `✓ ${t.js_good}`, title: t.js_good, kind: "thumb good" },
      { value: false, text: `✕ ${t.js_bad}`, title: t.js_bad, kind: "thumb bad" },
    ];
    const row = radios(`${t.js_answer} ${LETTERS[place]}`, options, (value) => grid.pick(place, value));
    const box = element("div", { class: "cell" }, row.group);
    card.append(element("div", { class: "inputs" }, box));
    return { row, box };
  });
  const parse = (event) => ({ 1: true, 2: false })[event.key] ?? null;
  choices.append(keyLine(t.js_keys_thumbs));
  grid = cells({ list, parse, changed });
  grid.show();
  return {
    value: () => (grid.values.every((v) => v !== null) ? { thumbs: [...grid.values] } : null),
    partial: () => ({ thumbs: [...grid.values] }),
    restore(value) {
      (value.thumbs ?? []).slice(0, cards.length).forEach((v, p) => (grid.values[p] = v));
      grid.show();
    },
    key: grid.key,
  };
}

export function edit({ answers, choices, t, changed, submit }) {
  let base = null;
  choices.append(keyLine(answers.length ? t.js_keys_edit.replaceAll("#N", answers.length) : t.js_keys_write));
  const area = element("textarea", { "aria-label": t.js_edit_label, maxlength: "100000", dir: "auto" });
  const changes = element("details", {}, element("summary", {}, t.js_changes));
  const from = radios(
    t.js_from,
    [...answers.map((_, k) => ({ value: k, text: LETTERS[k] })), { value: "none", text: t.js_scratch }],
    (value) => start(value === "none" ? null : value),
  );
  const bar = element("div", { class: "cell" }, t.js_from, from.group);
  document.getElementById("answers").append(element("section", { class: "card editor" }, bar, area, changes));
  area.addEventListener("input", () => show());
  area.addEventListener("keydown", (event) => {
    if (composing(event)) return;
    if (event.key === "Enter" && !event.repeat && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape") area.blur();
  });
  changes.addEventListener("toggle", () => show());
  function start(value) {
    base = value;
    area.value = value === null ? "" : answers[value].text;
    show();
    area.focus();
  }
  function show() {
    from.show(base === null ? "none" : base);
    changes.hidden = base === null;
    while (changes.children.length > 1) changes.lastChild.remove();
    if (changes.open && base !== null) {
      const parts = compare(answers[base].text, area.value);
      changes.append(...(parts ? [marked(parts[0], "del"), marked(parts[1], "ins")] : [t.js_too_long]));
    }
    changed();
  }
  from.show("none");
  changes.hidden = true;
  return {
    value: () => (area.value.trim() ? { text: area.value, base } : null),
    partial: () => ({ text: area.value, base }),
    restore(value) {
      base = value.base ?? null;
      area.value = value.text ?? "";
      show();
    },
    key(event) {
      const place = digit(event) === null ? -1 : digit(event) - 1;
      if (letterOf(event) === "E") area.focus();
      else if (place >= 0 && place < answers.length) start(place);
      else return false;
      return true;
    },
  };
}
