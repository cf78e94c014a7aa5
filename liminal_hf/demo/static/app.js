// The page: three tabs, and a worker that reads.

import { describe, inWords, whole } from "./answers.js";
import { showReading, showTable, showTimeline, showWords } from "./view.js";
import { decode, likelyColumn, readTable, writeTable } from "./table.js";

const EXAMPLES = ["What a lovely surprise!", "I cried after the meeting and nobody noticed.", "The report has forty pages."];
const AT_ONCE = 8;
const byId = (id) => document.getElementById(id);

// ---- the model ----

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let count = 0;
worker.onmessage = ({ data: { id, result, error, share } }) => {
  const { resolve, reject, onShare } = waiting.get(id);
  if (share !== undefined) return onShare(share);
  waiting.delete(id);
  if (error === undefined) resolve(result);
  else reject(new Error(error));
};
worker.onerror = () => say("This browser can't run the model. Try a newer one.", true);

function ask(method, inputs = [], onShare = () => {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++count, { resolve, reject, onShare });
    worker.postMessage({ id: count, method, inputs });
  });
}

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").className = wrong ? "wrong" : "";
}

const percent = (share) => `${Math.round(100 * share)}%`;
const about = await ask("load", [], (share) => {
  byId("loading").value = share;
  say(share < 1 ? `Loading the model: ${percent(share)}` : "Preparing the model.");
}).catch((error) => {
  say(`The model could not be loaded. ${error.message}`, true);
  throw error;
});
byId("loading").hidden = true;
say("The model is ready.");
for (const id of ["read", "why", "follow"]) byId(id).disabled = false;

// What a button does, with the button at rest meanwhile; `place` shows what went wrong.
function on(button, place, action) {
  byId(button).addEventListener("click", async () => {
    byId(button).setAttribute("aria-busy", "true");
    try {
      await action();
    } catch (error) {
      wrong(place, error.message);
    } finally {
      byId(button).removeAttribute("aria-busy");
    }
  });
}

function wrong(place, text) {
  const note = document.createElement("p");
  note.className = "wrong";
  note.textContent = text;
  byId(place).replaceChildren(note);
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ---- tabs ----

const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
}
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", ({ key }) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 }[key];
    if (to === undefined) return;
    choose(tabs.at(to % tabs.length));
    tabs.at(to % tabs.length).focus();
  });
});

// ---- one text ----

let asked = 0;
on("read", "reading", async () => {
  const mine = ++asked;
  say("The model is ready.");
  byId("words").replaceChildren();
  const [row] = await ask("read", [[{ text: byId("text").value }]]);
  if (mine === asked) byId("reading").replaceChildren(...showReading(row, about, inWords));
});
on("why", "words", async () => {
  const [mine, text] = [++asked, byId("text").value];
  const found = await ask("explain", [text], (share) => say(`Leaving words out: ${percent(share)}`));
  say("The effect of each word is below.");
  if (mine === asked) byId("words").replaceChildren(...showWords(text, found, about));
});
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("read").click();
});
for (const text of EXAMPLES) {
  const button = document.createElement("button");
  button.textContent = text;
  button.addEventListener("click", () => {
    byId("text").value = text;
    byId("read").click();
  });
  byId("examples").append(button);
}

// ---- many texts ----

// The rows of texts, a few at a time; `isOver` ends it early.
async function readAll(texts, onShare, isOver = () => false) {
  const rows = [];
  while (rows.length < texts.length && !isOver()) {
    rows.push(...(await ask("read", [texts.slice(rows.length, rows.length + AT_ONCE)])));
    onShare(rows.length / texts.length);
  }
  return rows;
}

let timeline;
on("follow", "course", async () => {
  byId("save-timeline").hidden = true;
  const windows = await ask("windows", [byId("long").value]);
  if (!windows.length) throw new Error("The text is empty. Give at least one word.");
  const texts = windows.map(({ sentence }) => ({ text: sentence }));
  const rows = await readAll(texts, (share) => say(`Reading: ${percent(share)}`));
  say(`${rows.length} ${rows.length === 1 ? "sentence is" : "sentences are"} read.`);
  const lengths = windows.map(({ start, end }) => end - start);
  const all = describe(whole(lengths, rows.map(({ answer }) => answer), about), about);
  const cells = windows.map(({ start, end, sentence }) => ({ cells: [String(start), String(end), sentence] }));
  timeline = { table: { header: ["start", "end", "sentence"], rows: cells, separator: ",", decimal: "." }, rows };
  byId("course").replaceChildren(...showTimeline(windows, rows, all, about, inWords));
  byId("save-timeline").hidden = false;
});
on("save-timeline", "course", () => save("timeline.csv", writeTable(timeline.table, timeline.rows, about)));

let table;
let answers;
let stopped = false;
byId("file").addEventListener("change", async () => {
  const [file] = byId("file").files;
  const column = byId("column");
  [table, answers] = [undefined, undefined];
  byId("save-table").hidden = column.disabled = byId("score").disabled = true;
  byId("summary").replaceChildren();
  if (!file) return;
  try {
    table = readTable(decode(new Uint8Array(await file.arrayBuffer())));
  } catch (error) {
    return wrong("summary", error.message);
  }
  column.replaceChildren(...table.header.map((name, index) => new Option(name || `column ${index + 1}`, index)));
  column.value = likelyColumn(table);
  column.disabled = byId("score").disabled = false;
});
on("stop", "summary", () => (stopped = true));
on("score", "summary", async () => {
  const column = Number(byId("column").value);
  const texts = table.rows.map(({ cells, error }) => ({ text: cells[column], error }));
  const busy = (isBusy) => {
    for (const id of ["file", "column", "score"]) byId(id).disabled = isBusy;
    for (const id of ["stop", "share"]) byId(id).hidden = !isBusy;
  };
  const show = (share) => {
    byId("share").value = share;
    say(`Reading: ${percent(share)}`);
  };
  stopped = false;
  byId("save-table").hidden = true;
  busy(true);
  try {
    answers = await readAll(texts, show, () => stopped);
    say(stopped ? "Stopped." : "The table is read.");
    while (answers.length < texts.length) answers.push(describe(null, about, { error: "not read: it was stopped" }));
    byId("summary").replaceChildren(...showTable(table, answers, column, about, inWords));
    byId("save-table").hidden = false;
  } finally {
    busy(false);
  }
});
on("save-table", "summary", () => save("predictions.csv", writeTable(table, answers, about)));
document.body.dataset.ready = "yes";
