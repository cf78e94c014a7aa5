// WordPiece as BERT's tokenizer has it: normalize, split at spaces and punctuation, take the longest known piece.

// Letters that vanish: controls, formats and private ones.
const GONE = /[\u0000\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu;
const CHINESE = /[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;
const WORD = /[!-/:-@[-`{-~\p{P}]|[^!-/:-@[-`{-~\p{P}\p{White_Space}]+/gu;

export class Tokenizer {
  // `about` is the part "tokenizer" of page.json; `vocabulary` has a token per line, in the order of their numbers.
  constructor(about, vocabulary) {
    this.about = about;
    this.ids = new Map(vocabulary.split("\n").map((token, index) => [token, index]));
    this.special = new Set(about.special);
    this.added = new RegExp(`(${about.added.map((token) => token.replace(/[^\w]/g, "\\$&")).join("|")})`);
  }

  // The tokens of a text, at most `length`: {ids, truncated, unreadable}.
  read(text, length) {
    const { prefix, suffix, special } = this.about;
    const room = length - prefix.length - suffix.length;
    const ids = [];
    for (const [index, part] of text.split(this.added).entries()) {
      if (index % 2) ids.push(this.ids.get(part));
      else for (const [word] of this.normalized(part).matchAll(WORD)) this.pieces(word, ids);
    }
    return {
      ids: [...prefix, ...ids.slice(0, room), ...suffix],
      truncated: ids.length > room,
      unreadable: ids.slice(0, room).every((id) => this.special.has(id)),
    };
  }

  normalized(text) {
    const spaced = text.replace(GONE, "").replace(/\p{White_Space}/gu, " ").replace(CHINESE, " $& ");
    if (!this.about.lowercase) return spaced;
    // Letter by letter: a Greek sigma at the end of a word is no exception here.
    const bare = Array.from(spaced.normalize("NFD").replace(/\p{Mn}/gu, ""));
    return bare.map((letter) => letter.toLowerCase()).join("");
  }

  pieces(word, ids) {
    const letters = Array.from(word);
    const found = [];
    let start = letters.length > this.about.longest ? Infinity : 0;
    while (start < letters.length) {
      let end = letters.length;
      let id;
      for (; end > start && id === undefined; end--) {
        id = this.ids.get((start ? this.about.inside : "") + letters.slice(start, end).join(""));
      }
      if (id === undefined) break;
      found.push(id);
      start = end + 1;
    }
    if (start === letters.length) ids.push(...found);
    else ids.push(this.about.unknown);
  }
}
