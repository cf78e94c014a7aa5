// What the page shows: rows, words and timelines as elements. Every text of a visitor goes in as text, never as HTML.

const LEAST_SCALE = 0.2;
const COLOURED = 0.25; // of the largest effect
const SHOWN_ROWS = 8;
const SHOWN_LETTERS = 200;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function signed(value) {
  if (value === null) return "\u2013";
  return Math.abs(value) < 0.005 ? "0.00" : (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2);
}
const note = (text) => element("p", { class: "faint" }, text);
const percent = (share) => `${Math.round(100 * share)}%`;

function shortened(text) {
  const letters = Array.from(text);
  return letters.length > SHOWN_LETTERS ? `${letters.slice(0, SHOWN_LETTERS - 1).join("")}\u2026` : text;
}

function key() {
  const mark = (look) => element("span", { class: `key ${look}`, "aria-hidden": "true" });
  return element("p", { class: "faint" }, mark("dot"), "the answer", mark("span"), "its 80% interval", mark("zone"), "neutral");
}

// The targets of one row as bars on their scale, and in words.
export function showReading(row, about, inWords) {
  if (row.error) return [element("p", { class: "wrong" }, `The text can't be read: ${row.error}.`)];
  const [low, high] = about.label_range;
  const place = (value) => (100 * (Math.min(Math.max(value, low), high) - low)) / (high - low);
  const part = (look, from, to) => {
    const made = element("i", { class: look });
    made.style.left = `${place(from)}%`;
    if (to !== undefined) made.style.width = `${place(to) - place(from)}%`;
    return made;
  };
  const bars = row.targets.map(({ name, value, interval, verdict, uncertainty }, index) =>
    element(
      "div",
      { class: "target" },
      element(
        "p",
        {},
        `${name} `,
        element("b", { "data-name": name }, signed(value)),
        element("span", {}, verdict),
        element("span", { class: "faint" }, `80% ${signed(interval[0])} to ${signed(interval[1])}`),
        element("span", { class: "faint" }, `\u00b1 ${uncertainty.toFixed(2)}`),
      ),
      element(
        "div",
        { class: "bar", "aria-hidden": "true" },
        part("zone", ...about.neutral_zone[index]),
        part("span", ...interval),
        part("dot", value),
      ),
    ),
  );
  const ends = [low, (low + high) / 2, high].map((value) => element("span", {}, String(value).replace("-", "\u2212")));
  const words = row.emotions?.slice(0, 3).map(([word, share]) => `${word} ${percent(share)}`);
  const parts = [inWords(row, about)];
  if (row.windows) parts.push(`the mean of ${row.windows.length} ${row.windows.length === 1 ? "sentence" : "sentences"}`);
  return [
    element("p", { class: "verdict" }, parts.join(", ")),
    ...bars,
    element("div", { class: "scale", "aria-hidden": "true" }, ...ends),
    key(),
    ...(words ? [element("p", {}, `Emotion words: ${words.join(", ")}`)] : []),
    ...(row.in_domain === null ? [] : [note(`Like the texts that the model was trained on: ${percent(row.in_domain)}.`)]),
  ];
}

function table(caption, header, rows) {
  const head = header.map((name, index) => element("th", { scope: "col", class: index ? "" : "left" }, name));
  const body = rows.map((cells) => element("tr", {}, ...cells));
  const made = element("table", {}, element("caption", {}, caption));
  made.append(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
  // What scrolls can be reached with the keyboard.
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
}

// A text, and below it what is said of it.
const left = (text, said = "") =>
  element("td", { class: "left" }, element("bdi", {}, text), ...(said ? [element("div", { class: "faint" }, said)] : []));
const right = (text) => element("td", {}, text);

// The text once per target with its strongest words marked, and a table of all effects.
export function showWords(text, { row, words, negations, unread }, about) {
  if (row.error) return [element("p", { class: "wrong" }, `The text can't be read: ${row.error}.`)];
  if (!words.length) return [element("p", { class: "wrong" }, "The text has no word that could be left out.")];
  const scale = Math.max(LEAST_SCALE, ...words.flatMap(({ effects }) => effects.map((effect) => Math.abs(effect ?? 0))));
  const coloured = (tag, shown, effect) => {
    const strength = Math.min(Math.abs(effect ?? 0) / scale, 1);
    if (strength < COLOURED) return tag === "mark" ? shown : element(tag, {}, shown);
    const made = element(tag, { class: effect > 0 ? "up" : "down" }, shown);
    made.style.setProperty("--strength", `${Math.round(55 * strength)}%`);
    if (tag === "mark") made.append(element("sub", {}, signed(effect)));
    return made;
  };
  const paragraphs = about.targets.flatMap((name, index) => {
    const paragraph = element("p", { class: "marked", dir: "auto" });
    let end = 0;
    for (const { word, start, end: next, effects } of words) {
      paragraph.append(text.slice(end, start), coloured("mark", word, effects[index]));
      end = next;
    }
    paragraph.append(text.slice(end));
    return [element("h3", {}, `${name} ${signed(row.targets[index].value)}`), paragraph];
  });
  const lines = [...words, ...negations].map(({ word, effects }) => [
    left(word),
    ...effects.map((effect) => coloured("td", signed(effect), effect)),
  ]);
  const limits = [];
  if (unread) limits.push(`The text is longer than the model reads at once: its last ${unread} words were not read.`);
  if (row.outside) limits.push("The text is unlike the training texts (another language, code): the numbers mean little.");
  return [
    element("h2", {}, "Which words moved it"),
    note(
      "An effect is the answer of the whole text minus the answer without the word. Blue, +: the word raises the " +
        "answer. Orange, dashed, \u2212: it lowers it. The largest effects alone are marked. A negation is also left " +
        "out together with what it negates.",
    ),
    ...limits.map((limit) => element("p", { class: "wrong" }, limit)),
    ...paragraphs,
    table("The effect of each word", ["left out", ...about.targets], lines),
  ];
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// A panel: each sentence with its interval, and the whole text as a dashed line.
function panel(name, index, rows, all, reach, about) {
  const middle = (about.label_range[0] + about.label_range[1]) / 2;
  const y = (value) => (100 * (middle + reach - value)) / (2 * reach);
  const points = rows.map((row, at) => row.targets && { x: at + 0.5, ...row.targets[index] }).filter(Boolean);
  const drawn = svg("svg", { viewBox: `0 0 ${rows.length} 100`, preserveAspectRatio: "none", role: "img" });
  const [low, high] = about.neutral_zone[index];
  const [least, most] = points.reduce(([a, b], { value }) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  drawn.setAttribute(
    "aria-label",
    `${name} of ${rows.length} sentences, from ${signed(least)} to ${signed(most)}, ` +
      `the whole text ${signed(all.targets[index].value)}`,
  );
  const line = (look, d) => drawn.append(svg("path", { class: look, d }));
  drawn.append(svg("rect", { class: "zone", x: 0, width: rows.length, y: y(high), height: y(low) - y(high) }));
  line("whole", `M0 ${y(all.targets[index].value)}H${rows.length}`);
  line("spans", points.map(({ x, interval }) => `M${x} ${y(interval[1])}V${y(interval[0])}`).join(""));
  line("course", `M${points.map(({ x, value }) => `${x} ${y(value)}`).join("L")}`);
  line("dots", points.map(({ x, value }) => `M${x} ${y(value)}h0.0001`).join(""));
  const ends = [middle + reach, middle, middle - reach].map((value) => element("span", {}, signed(value)));
  return [element("h3", {}, name), element("div", { class: "axis", "aria-hidden": "true" }, ...ends), drawn];
}

export function showTimeline(windows, rows, all, about, inWords) {
  if (all.error) return [element("p", { class: "wrong" }, `The text can't be read: ${all.error}.`)];
  const middle = (about.label_range[0] + about.label_range[1]) / 2;
  const ends = rows.flatMap((row) => (row.targets ?? []).flatMap(({ interval }) => interval));
  const reach = 1.1 * ends.reduce((most, end) => Math.max(most, Math.abs(end - middle)), 0);
  const count = rows.length;
  const plot = element("div", { class: "plot" });
  about.targets.forEach((name, index) => plot.append(...panel(name, index, rows, all, reach, about)));
  plot.append(
    element("div", { class: "foot", "aria-hidden": "true" }, element("span", {}, "sentence 1"), element("span", {}, count > 1 ? String(count) : "")),
  );
  const lines = rows.map((row, index) => [
    left(`${index + 1}. ${shortened(windows[index].sentence)}`, row.error ?? inWords(row, about)),
    ...about.targets.map((_, at) => right(row.targets ? signed(row.targets[at].value) : "\u2013")),
  ]);
  const whole = all.targets.map(({ name, value }) => `${name} ${signed(value)}`).join(", ");
  return [
    element("p", { class: "verdict" }, `${count} ${count === 1 ? "sentence" : "sentences"}: ${inWords(all, about)}`),
    element("p", {}, `The whole text: ${whole} (the dashed lines), the mean of its sentences by length.`),
    plot,
    key(),
    table("The sentences", ["sentence", ...about.targets], lines),
  ];
}

// How many rows were read, and the first of them.
export function showTable({ header, rows }, answers, column, about, inWords) {
  const errors = answers.filter(({ error }) => error).length;
  const long = answers.filter(({ windows }) => windows).length;
  const counted = (number, what) => `${number.toLocaleString("en")} ${number === 1 ? what : `${what}s`}`;
  const told = [`${(rows.length - errors).toLocaleString("en")} of ${counted(rows.length, "row")} read.`];
  if (long) told.push(`${counted(long, "text")} longer than the model reads at once: read sentence by sentence.`);
  if (errors) told.push("The column error says what is wrong with the others.");
  const lines = rows.slice(0, SHOWN_ROWS).map(({ cells }, index) => [
    left(shortened(cells[column]), answers[index].error ?? inWords(answers[index], about)),
    ...about.targets.map((_, at) => right(answers[index].targets ? signed(answers[index].targets[at].value) : "\u2013")),
  ]);
  return [
    element("p", { class: "verdict" }, told.join(" ")),
    table("The first rows", [header[column], ...about.targets], lines),
  ];
}
