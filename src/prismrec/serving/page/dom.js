/** Making elements. Text becomes text nodes only: nothing in a title is ever read as markup. */

/**
 * @param {string} id
 * @returns {any} the element; the page has all that the modules ask for
 */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * @param {string} tag
 * @param {Object<string, string>} attributes
 * @param {...(Node|string)} children strings become text
 */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for the elements of a drawing. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/**
 * A title, with a year in brackets at its end in a quieter tone.
 * @param {string} title
 */
export function titled(title) {
  const name = withoutYear(title);
  const year = title.slice(name.length).trim();
  const nodes = year ? [`${name} `, make("span", { class: "year" }, year)] : [title];
  return make("span", { class: "title", dir: "auto" }, ...nodes);
}

/** @param {string} title */
export function withoutYear(title) {
  return title.replace(/(?<=\S)\s+\(\d{4}\)$/, "");
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
