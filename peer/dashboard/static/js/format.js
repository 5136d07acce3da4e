// Numbers as people read them. Each takes a number; "not known" is not their business.

export const count = (value) => Math.round(value).toLocaleString("en-US");

export const percent = (value) => `${(100 * value).toFixed(2)}%`;

export const share = (value) => (value > 0 && value < 0.001 ? "<0.1%" : `${(100 * value).toFixed(1)}%`);

export const loss = (value) => (value >= 1000 ? value.toExponential(2) : value.toFixed(4));

export const rate = (value) => `${value < 10 ? value.toFixed(1) : count(value)}/s`;

export const decimal = (value) => value.toFixed(2);

export function seconds(value) {
  if (value < 0.9995) return `${Math.round(1000 * value)} ms`;
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 99.95) return `${value.toFixed(1)} s`;
  return duration(value);
}

export function duration(value) {
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  const two = (part) => String(part).padStart(2, "0");
  return hours ? `${hours} h ${two(minutes)} min` : `${minutes} min ${two(whole % 60)} s`;
}

export function bytes(value) {
  if (value >= 2 ** 30) return `${trimmed(value / 2 ** 30)} GiB`;
  if (value >= 2 ** 20) return `${Math.round(value / 2 ** 20)} MiB`;
  return `${Math.round(value / 2 ** 10)} KiB`;
}

export const megabytes = (value) => (value >= 1e9 ? `${(value / 1e9).toFixed(2)} GB` : `${(value / 1e6).toFixed(1)} MB`);

export const clock = (time) => new Date(1000 * time).toLocaleTimeString("en-GB");

const trimmed = (value) => value.toFixed(2).replace(/\.?0+$/, "");
