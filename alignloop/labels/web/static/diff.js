// Word-level differences by a longest common subsequence.

const MAX_CELLS = 4e6; // of the table, 4 bytes each

// Hangul, kana and ideographs change character by character; other scripts word by word.
const TOKEN = /\s+|[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]|[\p{L}\p{N}\p{M}_]+|./gsu;

export const words = (text) => text.match(TOKEN) ?? [];

// [left, right]: lists of { text, changed }; null if the texts are too long to compare.
export function compare(left, right) {
  const a = words(left), b = words(right);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const rows = a.length - start - end, columns = b.length - start - end;
  if ((rows + 1) * (columns + 1) > MAX_CELLS) return null;
  const width = columns + 1;
  const length = new Uint32Array((rows + 1) * width);
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      length[i * width + j] =
        a[start + i] === b[start + j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    }
  }
  const same = [new Uint8Array(a.length).fill(1), new Uint8Array(b.length).fill(1)];
  for (let i = 0, j = 0; i < rows || j < columns; ) {
    if (i < rows && j < columns && a[start + i] === b[start + j]) i++, j++;
    else if (i < rows && (j === columns || length[(i + 1) * width + j] >= length[i * width + j + 1])) same[0][start + i++] = 0;
    else same[1][start + j++] = 0;
  }
  return [runs(a, same[0]), runs(b, same[1])];
}

function runs(tokens, same) {
  const merged = [];
  tokens.forEach((text, k) => {
    const changed = !same[k];
    const last = merged.at(-1);
    if (last && last.changed === changed) last.text += text;
    else merged.push({ text, changed });
  });
  return merged;
}

export function marked(parts, tag = "mark") {
  const block = document.createElement("div");
  block.className = "compare";
  for (const part of parts) {
    if (part.changed) {
      const element = document.createElement(tag);
      element.textContent = part.text;
      block.append(element);
    } else block.append(part.text);
  }
  return block;
}
