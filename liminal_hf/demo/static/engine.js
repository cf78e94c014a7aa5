// The model in the browser: texts in, rows out. Nothing here knows of the page.

import * as ort from "./runtime/ort.js";
import { describe, whole } from "./answers.js";
import { Sentences } from "./sentences.js";
import { Tokenizer } from "./tokenizer.js";
import { negated, without, wordSpans } from "./words.js";

const here = (name) => new URL(name, import.meta.url).href;

// The file's bytes; `onShare` is told how much of it has come.
async function fetched(name, size, onShare) {
  const response = await fetch(here(name));
  if (!response.ok) throw new Error(`${name} did not come: ${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > size) throw new Error(`${name} is larger than it should be. Copy the folder again.`);
    bytes.set(value, at);
    onShare((at += value.length) / size);
  }
  if (at < size) throw new Error(`${name} is not whole. Load the page again.`);
  return bytes;
}

export async function load(onShare = () => {}) {
  ort.env.wasm.numThreads = 1; // several need headers that not every server sends
  ort.env.wasm.wasmPaths = { mjs: here("runtime/ort-wasm.js"), wasm: here("runtime/ort-wasm.wasm") };
  ort.env.logLevel = "error";
  const about = await (await fetch(here("page.json"))).json();
  const [vocabulary, bytes] = await Promise.all([
    fetch(here("vocabulary.txt")).then((response) => response.text()),
    fetched("model.onnx", about.model_size, onShare),
  ]);
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const reader = new Reader(about, session, new Tokenizer(about.tokenizer, vocabulary));
  await reader.read("Good morning."); // the first answer takes longer
  return reader;
}

export class Reader {
  constructor(about, session, tokenizer) {
    Object.assign(this, { about, session, tokenizer, sentences: new Sentences(about.sentences) });
    this.blank = new RegExp(`^[\\p{Zs}\\p{Zl}\\p{Zp}\\p{Cc}\\p{Cf}${about.blank_letters}]*$`, "u");
  }

  tokens(text) {
    return this.tokenizer.read(text, this.about.max_length);
  }

  // Why a text can't be read; null if it can.
  error(text) {
    if (this.blank.test(text)) return this.about.errors.empty;
    const half = Array.from(text).findIndex((letter) => /^\p{Cs}$/u.test(letter));
    return half < 0 ? null : `half of a character at position ${half}`;
  }

  async answer(ids) {
    const shape = [1, ids.length];
    const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), shape);
    const output = await this.session.run({ input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) });
    return {
      logits: [...output.logits.data],
      uncertainty: [...output.uncertainty.data],
      in_domain: output.in_domain?.data[0] ?? null,
    };
  }

  // The row of a text; one that is longer than the model reads at once is read sentence by sentence.
  async read(text, { in_windows = true } = {}) {
    const error = this.error(text);
    if (error) return describe(null, this.about, { error });
    const { ids, truncated, unreadable } = this.tokens(text);
    if (truncated && in_windows) return this.readWindows(text);
    if (unreadable) return describe(null, this.about);
    const answer = await this.answer(ids);
    return { ...describe(answer, this.about, { truncated }), answer };
  }

  async readWindows(text) {
    const windows = this.windows(text);
    const answers = [];
    for (const { sentence } of windows) {
      const { ids, unreadable } = this.tokens(sentence);
      answers.push(unreadable ? null : await this.answer(ids));
    }
    const lengths = windows.map(({ start, end }) => end - start);
    return describe(whole(lengths, answers, this.about), this.about, { windows });
  }

  // {start, end, sentence} of each sentence; the places count characters, as Python does.
  windows(text) {
    const isLong = (piece) => this.tokens(piece).truncated;
    const spans = this.sentences.fitting(text, this.sentences.split(text), isLong);
    let [at, units] = [0, 0];
    const place = (unit) => {
      at += Array.from(text.slice(units, unit)).length;
      units = unit;
      return at;
    };
    return spans.map(([start, end]) => ({ start: place(start), end: place(end), sentence: text.slice(start, end) }));
  }

  // What each word did to the answer: the answer of the whole text minus that without the word.
  async explain(text, onShare = () => {}) {
    const row = await this.read(text, { in_windows: false });
    if (row.error) return { row, words: [], negations: [], unread: 0 };
    const all = wordSpans(text, this.about.words);
    const isFull = ([start]) => this.tokens(text.slice(0, start)).ids.length >= this.about.max_length;
    const first = row.truncated ? all.findIndex(isFull) : -1;
    const words = first < 0 ? all : all.slice(0, first);
    const spans = [...words, ...negated(text, words, this.about.words)];
    const entries = [];
    for (const [index, [start, end]] of spans.entries()) {
      const other = await this.read(without(text, [start, end]), { in_windows: false });
      const effects = row.targets.map(({ value }, at) => (other.error ? null : value - other.targets[at].value));
      entries.push({ word: text.slice(start, end), start, end, effects });
      onShare((index + 1) / spans.length);
    }
    const [own, negations] = [entries.slice(0, words.length), entries.slice(words.length)];
    return { row, words: own, negations, unread: all.length - words.length };
  }
}
