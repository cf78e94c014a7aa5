// From the model's numbers to what the page says of a text; liminal_hf/modeling/answers.py, rows.py, windows.py and
// emotions.py in JavaScript. `about` is page.json, where every constant comes from.

const LEAST_DEVIATION = 1e-6;

// The normal distribution's share below z: Marsaglia's series near 0, a continued fraction in the tails.
export function below(z) {
  const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  if (Math.abs(z) < 5) {
    let [sum, term] = [z, z];
    for (let i = 3; i < 160; i += 2) sum += term *= (z * z) / i;
    return 0.5 + density * sum;
  }
  let fraction = 0;
  for (let i = 30; i > 0; i--) fraction = i / (Math.abs(z) + fraction);
  const tail = density / (Math.abs(z) + fraction);
  return z > 0 ? 1 - tail : tail;
}

function classes(mean, deviation, [low, high]) {
  const [under, over] = [below((low - mean) / deviation), below((mean - high) / deviation)];
  return [under, Math.max(1 - under - over, 0), over];
}

function emotions(mean, deviation, about) {
  const { words, neutral_share: rest, spread } = about.emotions;
  const names = Object.keys(words);
  const scores = names.map((word) => {
    let score = Math.log(word === about.neutral ? rest : (1 - rest) / (names.length - 1));
    about.pad_indices.forEach((index, part) => {
      const unit = about.label_std[index];
      const variance = deviation[index] ** 2 + (spread[part] * unit) ** 2;
      const [low, high] = about.neutral_zone[index];
      score -= ((mean[index] - (low + high) / 2 - words[word][part] * unit) ** 2 / variance + Math.log(variance)) / 2;
    });
    return score;
  });
  const largest = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - largest));
  const total = weights.reduce((sum, weight) => sum + weight);
  return names.map((word, index) => [word, weights[index] / total]).sort((one, other) => other[1] - one[1]);
}

export const clamp = (value, [low, high]) => Math.min(Math.max(value, low), high);

// One row from one answer {logits, uncertainty, in_domain} of the model; or a row without numbers, which says why.
export function describe(answer, about, { truncated = false, windows = null, error = null } = {}) {
  if (answer && ![...answer.logits, ...answer.uncertainty].every(Number.isFinite)) error = about.errors.not_finite;
  if (error || !answer) return { error: error ?? about.errors.unreadable, truncated, targets: null };
  const { logits, in_domain = null } = answer;
  const deviation = answer.uncertainty.map((value) => Math.max(value, LEAST_DEVIATION));
  const outside = in_domain !== null && in_domain < 0.5;
  const targets = about.targets.map((name, index) => {
    const [mean, spread, zone] = [logits[index], deviation[index], about.neutral_zone[index]];
    const shares = classes(mean, spread, zone);
    const best = shares.indexOf(Math.max(...shares));
    return {
      name,
      value: clamp(mean, about.label_range),
      uncertainty: answer.uncertainty[index],
      interval: about.interval_ends[index].map((z) => mean + spread * z),
      probability: below((mean - (zone[0] + zone[1]) / 2) / spread),
      verdict: !outside && shares[best] > about.named_above ? about.verdicts[index][best] : about.unclear,
    };
  });
  const relative = answer.uncertainty.map((value, index) => value / about.label_std[index]);
  const row = { targets, in_domain, outside, truncated, windows, error: null };
  row.confidence = Math.exp(-relative.reduce((sum, value) => sum + value) / relative.length);
  if (about.pad_indices) {
    const three = about.pad_indices.map((index) => targets[index]);
    row.octant_probability = three.reduce((share, { probability: p }) => share * Math.max(p, 1 - p), 1);
    const is_neutral =
      row.octant_probability <= about.named_above || three.every(({ verdict }) => verdict === about.neutral);
    const name = about.octants[three.map(({ probability }) => (probability >= 0.5 ? 1 : 0)).join("")];
    row.octant = is_neutral ? about.neutral : name;
    row.emotions = outside ? null : emotions(logits, deviation, about);
  }
  return row;
}

// The verdicts of a row that say something, its octant, and whether the text is unlike the training texts.
export function inWords(row, about) {
  const verdicts = row.targets.map(({ verdict }) => verdict);
  const telling = verdicts.filter((word) => ![about.neutral, about.unclear].includes(word));
  const parts = [(telling.length ? telling : [...new Set(verdicts)].sort()).join(", ")];
  if (row.octant && row.octant !== about.neutral) {
    parts.push(`${row.octant} (${Math.round(100 * row.octant_probability)}%)`);
  }
  if (row.outside) parts.push("unlike the training texts");
  return parts.join("; ");
}

// What becomes of a whole text: the mean of its windows, each weighted by its number of characters.
export function whole(lengths, answers, about) {
  const read = answers.map((answer, index) => [answer, lengths[index]]).filter(([answer]) => answer);
  if (!read.length) return null;
  const total = read.reduce((sum, [, length]) => sum + length, 0);
  const mean = (value) => read.reduce((sum, [answer, length]) => sum + (length / total) * value(answer), 0);
  const targets = about.targets.map((_, index) => index);
  return {
    logits: targets.map((index) => mean((answer) => clamp(answer.logits[index], about.label_range))),
    uncertainty: targets.map((index) => {
      const alone = Math.hypot(...read.map(([answer, length]) => (length / total) * answer.uncertainty[index]));
      const together = mean((answer) => answer.uncertainty[index]);
      return Math.sqrt((1 - about.shared_error) * alone ** 2 + about.shared_error * together ** 2);
    }),
    in_domain: read[0][0].in_domain === null ? null : mean((answer) => answer.in_domain),
  };
}
