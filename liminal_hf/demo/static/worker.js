// The model beside the page, so that the page stays awake: {id, method, inputs} in, {id, result | error | share} out.

import { load } from "./engine.js";

let reader;

const methods = {
  async load(onShare) {
    reader = await load(onShare);
    return reader.about;
  },
  async read(onShare, texts) {
    const rows = [];
    for (const [index, { text, error }] of texts.entries()) {
      rows.push(error ? { error, targets: null, truncated: false } : await reader.read(text));
      onShare((index + 1) / texts.length);
    }
    return rows;
  },
  windows: async (_, text) => (reader.error(text) ? [] : reader.windows(text)),
  explain: (onShare, text) => reader.explain(text, onShare),
};

self.onmessage = async ({ data: { id, method, inputs } }) => {
  try {
    self.postMessage({ id, result: await methods[method]((share) => self.postMessage({ id, share }), ...inputs) });
  } catch (error) {
    self.postMessage({ id, error: String(error.message ?? error) });
  }
};
