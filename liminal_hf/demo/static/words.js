// The words of a text, its negations, and the text without some of them; liminal_hf/explaining/words.py in JavaScript.

import { trimEnd, trimStart } from "./sentences.js";

const APOSTROPHES = ["'", "\u2019"];
const WORD = /cm*|am*(?:'*am*)*/g;

// Start and end of each word, as offsets in JavaScript's units.
export function wordSpans(text, about) {
  const kind = (letter) => {
    const code = letter.codePointAt(0);
    if (/[\p{L}\p{N}]/u.test(letter)) return about.no_spaces.some(([a, b]) => a <= code && code <= b) ? "c" : "a";
    return /\p{M}/u.test(letter) ? "m" : APOSTROPHES.includes(letter) ? "'" : " ";
  };
  const letters = Array.from(text);
  const starts = [0];
  for (const letter of letters) starts.push(starts.at(-1) + letter.length);
  return [...letters.map(kind).join("").matchAll(WORD)].map(({ 0: found, index }) => [
    starts[index],
    starts[index + found.length],
  ]);
}

// Each negation with what it negates, as one span.
export function negated(text, words, about) {
  const lower = ([start, end]) => text.slice(start, end).toLowerCase().replaceAll("\u2019", "'");
  const spans = [];
  words.forEach((first, index) => {
    if (!about.negations.includes(lower(first)) && !lower(first).endsWith("n't")) return;
    for (let next = index + 1; next < words.length && next <= index + about.most_between + 1; next++) {
      if (trimStart(text.slice(words[next - 1][1], words[next][0]))) break;
      if (!about.between.includes(lower(words[next]))) {
        spans.push([first[0], words[next][1]]);
        break;
      }
    }
  });
  return spans;
}

// A text without a word, nor the space before it (after it, at the beginning).
export function without(text, [start, end]) {
  let [before, after] = [text.slice(0, start), text.slice(end)];
  if (trimEnd(before.slice(-1)) !== before.slice(-1)) before = before.slice(0, -1);
  else if (!before && trimStart(after.slice(0, 1)) !== after.slice(0, 1)) after = after.slice(1);
  return before + after;
}
