// A CSV in and out: any of four separators, quotes, a byte-order mark, any line ends; nothing that a spreadsheet runs.

const SEPARATORS = [",", ";", "\t", "|"];

// The text of a file's bytes: by its byte-order mark, else UTF-8, else what Windows writes in Western Europe.
export function decode(bytes) {
  const [a, b] = bytes;
  if (a === 0xff && b === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  if (a === 0xfe && b === 0xff) return new TextDecoder("utf-16be").decode(bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

// The records of a CSV, each a list of cells with the number of its line; blank lines are none.
function records(text, separator) {
  const rows = [];
  let [row, cell, quoted, line, open] = [[], "", false, 1, 1];
  let start = 1;
  const endCell = () => {
    row.push(cell);
    cell = "";
  };
  const endRow = () => {
    endCell();
    if (row.length > 1 || row[0].trim()) rows.push({ line: start, cells: row });
    row = [];
  };
  for (let at = 0; at < text.length; at++) {
    const letter = text[at];
    if (letter === "\n" || (letter === "\r" && text[at + 1] !== "\n")) line++;
    if (quoted) {
      if (letter !== '"') cell += letter;
      else if (text[at + 1] === '"') cell += text[at++];
      else quoted = false;
    } else if (letter === '"' && cell === "") [quoted, open] = [true, line];
    else if (letter === separator) endCell();
    else if (letter === "\n" || letter === "\r") {
      if (letter === "\r" && text[at + 1] === "\n") [at, line] = [at + 1, line + 1];
      endRow();
      start = line;
    } else cell += letter;
  }
  if (cell || row.length) endRow();
  if (quoted) throw new Error(`The quotation mark that line ${open} opens is not closed. Close it, or leave it out.`);
  return rows;
}

// {header, rows, separator, decimal}; each row has its cells, and an error where they are too many or too few.
export function readTable(text) {
  text = text.replace(/^\ufeff/, "");
  const named = /^"?sep=(.)"?[ \t]*\r?\n/i.exec(text);
  if (named) text = text.slice(named[0].length);
  if (!text.trim()) throw new Error("The file is empty. The first line of a table names its columns.");
  const first = text.split(/\r\n|\n|\r/).find((line) => line.trim());
  const outside = first.replace(/"[^"]*"/g, "");
  const count = (mark) => outside.split(mark).length;
  const separator = named ? named[1] : SEPARATORS.reduce((best, mark) => (count(mark) > count(best) ? mark : best));
  const [{ cells: header }, ...rows] = records(text, separator);
  while (header.length > 1 && !header.at(-1).trim()) header.pop();
  if (!rows.length) throw new Error("The file has no rows: the first line names the columns, each further line is a row.");
  for (const row of rows) {
    while (row.cells.length > header.length && !row.cells.at(-1).trim()) row.cells.pop();
    const counted = (number) => `${number} ${number === 1 ? "cell" : "cells"}`;
    if (row.cells.length !== header.length) {
      row.error = `line ${row.line} has ${counted(row.cells.length)}, the header has ${counted(header.length)}`;
      row.cells = header.map((_, index) => row.cells[index] ?? "");
    }
  }
  return { header: header.map((name) => name.trim()), rows, separator, decimal: decimalMark(header, rows, separator) };
}

// What stands before the places of a number, by the columns that hold nothing but numbers.
function decimalMark(header, rows, separator) {
  const columns = header.map((_, index) => rows.slice(0, 500).map(({ cells }) => cells[index].trim()).filter(Boolean));
  const numbers = columns.filter((cells) => cells.every((cell) => /^[+-]?\d+([.,]\d+)?$/.test(cell))).flat();
  const [points, commas] = [".", ","].map((mark) => numbers.filter((cell) => cell.includes(mark)).length);
  return points === commas ? (separator === ";" ? "," : ".") : commas > points ? "," : ".";
}

// The column that most likely holds the texts: "text", or the one with the most letters.
export function likelyColumn({ header, rows }) {
  const named = header.findIndex((name) => name.toLowerCase() === "text");
  if (named >= 0) return named;
  const sizes = header.map((_, index) => rows.slice(0, 200).reduce((sum, row) => sum + row.cells[index].length, 0));
  return sizes.indexOf(Math.max(...sizes));
}

// A cell that no spreadsheet runs as a formula; a number stays as it is.
export function harmless(cell, about) {
  const isFormula = about.formula.some((mark) => cell.replace(/^ +/, "").startsWith(mark));
  return isFormula && !new RegExp(`^(?:${about.patterns.number})$`, "u").test(cell.trim()) ? `'${cell}` : cell;
}

function cellOf(value, { separator, decimal }, about) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") {
    const shown = String(Number(value.toPrecision(7))).replace(".", decimal);
    return shown.includes(separator) ? `"${shown}"` : shown;
  }
  const cell = harmless(String(value).replaceAll("\0", "\ufffd"), about);
  return /["\r\n]/.test(cell) || cell.includes(separator) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

// The columns that an answer has, as `liminal score` writes them.
export function columnsOf(row, about) {
  const { targets } = row;
  const each = (prefix, value) =>
    about.targets.map((name, index) => [prefix + name, targets ? value(targets[index]) : null]);
  const [word = null, share = null] = row.emotions?.[0] ?? [];
  return [
    ...each("", (target) => target.value),
    ...each("uncertainty_", (target) => target.uncertainty),
    ...about.targets.flatMap((name, index) =>
      ["low", "high"].map((end, side) => [`${end}_${name}`, targets ? targets[index].interval[side] : null]),
    ),
    ...each("verdict_", (target) => target.verdict),
    ["confidence", row.confidence],
    ["octant", row.octant],
    ["octant_probability", row.octant_probability],
    ["emotion", word],
    ["emotion_probability", share],
    ["in_domain", row.in_domain],
    ["windows", row.error ? null : (row.windows?.length ?? 1)],
    ["truncated", row.truncated ? "TRUE" : "FALSE"],
    ["error", row.error],
  ];
}

// The table that came in with the columns of the answers behind its own.
export function writeTable(table, answers, about) {
  const names = columnsOf(answers[0], about).map(([name]) => name);
  const header = table.header.map((name) => (names.includes(name.toLowerCase()) ? `given_${name}` : name));
  const lines = [
    [...header, ...names],
    ...table.rows.map((row, index) => [...row.cells, ...columnsOf(answers[index], about).map(([, value]) => value)]),
  ];
  const written = lines.map((line) => line.map((value) => cellOf(value, table, about)).join(table.separator));
  return `\ufeff${written.join("\n")}\n`;
}
