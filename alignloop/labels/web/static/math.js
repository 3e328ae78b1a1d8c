// Formulas: the server marks them (class `math`, LaTeX source with its delimiters as text), KaTeX draws them.
// KaTeX is loaded when a page shows its first formula. What it cannot read stays as written, and so does what
// could make an answer look other than it is stored: comments, colours, invisible or moved parts, own macros.

const FOLDER = "/static/katex-0.19.1";
const DELIMITERS = /^(\\\(|\\\[|\$\$?)([\s\S]*?)(\\\)|\\\]|\$\$?)$/;
const HIDING = new RegExp(
  "(?:^|[^\\\\])(?:\\\\\\\\)*%|\\\\(?:" +
    "(?:text|f?box)?color(?:box)?|fcolorbox|[hv]?phantom|smash|(?:math)?[lrc]lap|raisebox|rule|m?kern|[mh]skip|hspace|" +
    "vcenter|char|def|gdef|edef|xdef|let|futurelet|global|long|(?:re)?newcommand|providecommand|" +
    "href|url|includegraphics|html(?:Class|Id|Style|Data)" +
    ")(?![A-Za-z])",
);

let library = null;

function load() {
  const style = document.createElement("link");
  const styled = new Promise((resolve, reject) => {
    style.addEventListener("load", resolve);
    style.addEventListener("error", reject);
  });
  style.rel = "stylesheet";
  style.href = `${FOLDER}/katex.min.css`;
  document.head.append(style);
  return Promise.all([import(`${FOLDER}/katex.min.js`), styled]).then(() => globalThis.katex);
}

export async function typeset(root) {
  const formulas = [...root.querySelectorAll(".math")].filter((node) => !node.firstElementChild);
  if (!formulas.length) return;
  library ??= load();
  const katex = await library.catch(() => null);
  // Without it formulas are read as written; the next page or task tries again.
  if (!katex) library = null;
  else for (const node of formulas) draw(katex, node);
}

function draw(katex, node) {
  const source = node.textContent;
  const parts = DELIMITERS.exec(source);
  node.title = source;
  if (!parts || HIDING.test(parts[2])) return;
  const box = document.createElement("span");
  try {
    katex.render(parts[2], box, {
      displayMode: node.classList.contains("display"),
      throwOnError: true,
      strict: "ignore",
      trust: false,
      maxSize: 10,
      maxExpand: 100,
    });
  } catch {
    // Wrong LaTeX, or a nesting beyond the browser's stack.
    node.classList.add("unread");
    return;
  }
  node.replaceChildren(...box.childNodes);
}
