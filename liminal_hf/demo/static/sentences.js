// Where the sentences of a text begin and end; liminal_hf/modeling/sentences.py in JavaScript. The patterns and the
// lists of abbreviations come from there, in page.json.

// What Python calls whitespace.
const BLANK = "[\\s\\x1c-\\x1f\\x85]";
const BLANKS = new RegExp(`${BLANK}+`, "g");
const isBlank = (letter) => new RegExp(`^${BLANK}`).test(letter);
export const trimStart = (text) => text.replace(new RegExp(`^${BLANK}+`), "");
export function trimEnd(text) {
  let end = text.length;
  while (end && isBlank(text[end - 1])) end--;
  return text.slice(0, end);
}

export class Sentences {
  constructor(about) {
    this.about = about;
    const pattern = (name, flags = "gu") => new RegExp(about.patterns[name], flags);
    this.mark = pattern("mark");
    this.next = pattern("next", "suy");
    this.line = pattern("line");
    this.item = pattern("list_item", "uy");
    this.clause = pattern("clause");
  }

  // [start, end] of each sentence, in JavaScript's units.
  split(text) {
    const hasCapitals = text !== text.toLowerCase();
    const ends = [...text.matchAll(this.mark)]
      .filter((match) => this.endsHere(text, match, hasCapitals))
      .map((match) => match.index + match[0].length);
    const all = [...new Set([...ends, ...this.endingLines(text), text.length])].sort((a, b) => a - b);
    return all.map((end, index) => stripped(text, index ? all[index - 1] : 0, end)).filter(([a, b]) => a < b);
  }

  endsHere(text, match, hasCapitals) {
    const { mark, close } = match.groups;
    const end = match.index + match[0].length;
    const isWide =
      [...mark].some((letter) => this.about.wide.includes(letter)) && !(mark === "．" && /^\p{Nd}/u.test(text.slice(end)));
    this.next.lastIndex = end;
    const { opening, word, after } = this.next.exec(text).groups;
    if (!(isWide || end === text.length || isBlank(text[end]))) return false;
    if (!word && !opening && after && ".,;:!?…)]}%、，；：".includes(after)) return false;
    const goesOn = hasCapitals && /^\p{Lowercase}/u.test(word);
    if (isWide || /[!?]/.test(mark)) return isWide || !(close && goesOn);
    if (goesOn || Array.from(mark).length > 1 || close) return !goesOn;
    return !this.isAbbreviation(text.slice(Math.max(0, match.index - 40), match.index), word, after);
  }

  isAbbreviation(before, following, after) {
    const line = trimEnd(trimStart(before.split(this.line).at(-1)));
    const words = line.split(BLANKS);
    const word = line && !isBlank(before.at(-1)) ? words.at(-1).replace(/^[([{"'“‘„«]+/, "") : "";
    if (!word) return false;
    const name = word.toLowerCase();
    const areInitials = name.split(/[.-]+/).every((part) => Array.from(part).length === 1 && part.toUpperCase() !== part);
    if (word === line && ((/^\p{N}+$/u.test(word) && word.length < 4) || /^([a-zA-Z]|[IVX]+)$/.test(word))) return true;
    const { titles, numbered, others, beginners } = this.about;
    if (titles.includes(name) || (numbered.includes(name) && /^\p{N}/u.test(following))) return true;
    const isShort = (areInitials && word !== "I") || others.includes(name);
    return isShort && (!beginners.includes(following.toLowerCase()) || after === ".");
  }

  // The line breaks that end a sentence: all of them, except where a paragraph is wrapped at some width.
  endingLines(text) {
    const size = (line) => Array.from(line).length;
    const isItem = (line) => {
      this.item.lastIndex = 0;
      return this.item.test(line);
    };
    const breaks = [...text.matchAll(this.line)].map((match) => match.index);
    const lines = text.split(this.line).map(trimEnd);
    const width = lines.reduce((most, line) => Math.max(most, size(line)), 0);
    const words = lines.map((line) => (line && !isItem(line) ? trimStart(line).split(BLANKS)[0] : ""));
    const full = breaks.map(
      (_, index) => lines[index] && words[index + 1] && size(lines[index]) + 1 + size(words[index + 1]) > width,
    );
    const inner = breaks.filter((_, index) => lines[index] && lines[index + 1]).length;
    const count = full.filter(Boolean).length;
    const goingOn = full.filter((isFull, index) => isFull && /^\p{Lowercase}/u.test(words[index + 1])).length;
    const isWrapped = width >= this.about.narrowest_wrap && 2 * count >= inner && goingOn >= 0.4 * count;
    return breaks.filter((_, index) => !(isWrapped && full[index]));
  }

  // The spans, with those halved, and halved again, that are longer than the model reads.
  fitting(text, spans, isLong) {
    return spans.flatMap(([start, end]) => {
      const halves = isLong(text.slice(start, end)) ? this.halves(text, start, end) : [];
      return halves.length ? this.fitting(text, halves, isLong) : [[start, end]];
    });
  }

  // Two parts of a span, divided near its middle; none where it is a single character.
  halves(text, start, end) {
    const letters = Array.from(text.slice(start, end));
    const places = [start];
    for (const letter of letters) places.push(places.at(-1) + letter.length);
    const [middle, room] = [places[letters.length >> 1], places[letters.length >> 2] - start];
    const found = (pattern, from, to) => {
      pattern.lastIndex = from; // where matchAll begins
      return [...text.slice(0, to).matchAll(pattern)].map((match) => [match.index, match.index + match[0].length]);
    };
    let cuts = found(this.clause, start + room, end - room);
    if (!cuts.length) cuts = found(BLANKS, start, end);
    if (!cuts.length) cuts = betweenLetters(letters, places, this.about.joining);
    if (!cuts.length) return [];
    const distance = ([a]) => Math.abs(a - middle);
    const [left, right] = cuts.reduce((best, cut) => (distance(cut) < distance(best) ? cut : best));
    return [[start, left], [right, end]];
  }
}

function stripped(text, start, end) {
  const piece = text.slice(start, end);
  return [end - trimStart(piece).length, start + trimEnd(piece).length];
}

// The border nearest to the middle of what a reader sees as one letter: no accent, no part of an emoji alone.
function betweenLetters(letters, places, joining) {
  const middle = letters.length >> 1;
  for (let distance = 0; distance < letters.length; distance++) {
    for (const at of [middle - distance, middle + distance]) {
      if (at <= 0 || at >= letters.length || letters[at - 1] === "\u200d") continue;
      if (!/\p{M}/u.test(letters[at]) && !joining.includes(letters[at])) return [[places[at], places[at]]];
    }
  }
  return letters.length > 1 ? [[places[middle], places[middle]]] : [];
}
