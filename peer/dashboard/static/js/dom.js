// Elements are made and filled here and nowhere else, only ever by text: nothing that was read becomes markup.

export const byId = (id) => document.getElementById(id);

/** Return a new element; `children` are elements or text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Return a new SVG element. */
export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Show `text`; nothing is touched if it is shown already, so that a selection stays. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a value of the API: `field` is its name, kept beside the text with the value as it came. */
export function show(element, field, value, format) {
  element.dataset.field = field;
  element.dataset.value = value === null || value === undefined ? "" : String(value);
  say(element, value === null || value === undefined ? "–" : format(value));
}

/** A container whose children follow a list of items: made once an item, moved and removed with it. */
export class Rows {
  constructor(container, create) {
    this.container = container;
    this.create = create;
    this.rows = new Map();
  }

  /** Show the items; `create(item)` returns `{element, update}`. */
  update(items, keyOf) {
    const gone = new Map(this.rows);
    items.forEach((item, index) => {
      const key = keyOf(item);
      gone.delete(key);
      if (!this.rows.has(key)) this.rows.set(key, this.create(item));
      const row = this.rows.get(key);
      if (this.container.children[index] !== row.element) {
        this.container.insertBefore(row.element, this.container.children[index] ?? null);
      }
      row.update(item);
    });
    for (const [key, row] of gone) {
      row.element.remove();
      this.rows.delete(key);
    }
  }
}

/** Return the value of a CSS custom property, for what is drawn on a canvas; a neutral one if there is none. */
export function color(name) {
  const style = getComputedStyle(document.documentElement);
  return (style.getPropertyValue(name) || style.getPropertyValue("--muted")).trim();
}
