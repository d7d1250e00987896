// Figures as people read them: with a unit, and no more digits than they are good for.

const PREFIXES = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"]];
const LANGUAGE = "en-US";
const whole = new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 0 });

// Three significant digits, but every digit before the point.
export function number(value) {
  if (value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return whole.format(value);
  return value.toFixed(size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.1 ? 3 : 4);
}

export function count(value) {
  return value === undefined ? "–" : whole.format(value);
}

// With an SI prefix: 12.3 kW, 45 mJ.
export function si(value, unit) {
  if (value === undefined) return "–";
  const size = Math.abs(value);
  if (size < 1e-6) return `0 ${unit}`; // What is left of sums of floats.
  const [factor, prefix] = PREFIXES.find(([least]) => size >= least * 0.9995) ?? PREFIXES.at(-1);
  const scaled = value / factor;
  const digits = Math.abs(scaled) >= 99.95 ? 0 : Math.abs(scaled) >= 9.995 ? 1 : 2;
  return `${scaled.toFixed(digits)} ${prefix}${unit}`;
}

// Rounded down: not every promise was kept unless every one was.
export function share(value) {
  if (value === undefined) return "–";
  const percent = Math.floor(value * 1000 + 1e-9) / 10;
  return `${percent === 100 || percent === 0 ? percent : percent.toFixed(1)} %`;
}

export function percent(value) {
  return value === undefined ? "–" : `${Math.round(value * 100)} %`;
}

export function seconds(value) {
  if (value === undefined) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
}
