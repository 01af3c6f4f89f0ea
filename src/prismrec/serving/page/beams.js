/**
 * The answer on the page: one beam an interest, with its label, share, titles and reasons; and the merged list.
 *
 * Colours run through the spectrum from the strongest beam to the weakest. One interest alone is not split:
 * its beam is white.
 */

import { byId, make, titled, withoutYear } from "./dom.js";
import { drawPrism } from "./prism.js";

const WIDEST = 44; // px of a beam that is the whole of the history's interest
const THINNEST = 2; // px
const ITEMS_OF_A_BEAM = 6;
const REASONS_OF_A_BEAM = 2;
const RED = 25; // hue, degrees in oklch
const VIOLET = 305;

export class Beams {
  /** @param {(item: {item_id: string, title: string}) => void} choose called with the item that was clicked */
  constructor(choose) {
    this.fan = byId("fan");
    this.beams = byId("beams");
    this.together = byId("together");
    this.choose = choose;
    this.colours = [];
    new ResizeObserver(() => this.drawFan()).observe(this.beams);
  }

  /** @param {object} answer of `POST /recommend` */
  show(answer) {
    const interests = answer.interests.filter(({ items }) => items.length);
    const place = this.focused();
    this.colours = spectrum(interests.length);
    const colourOf = new Map(interests.map(({ id }, index) => [id, this.colours[index]]));
    const labelOf = new Map(interests.map(({ id, label }) => [id, label]));
    this.widths = interests.map(({ weight }) => Math.max(THINNEST, Math.round(WIDEST * weight)));
    this.beams.replaceChildren(...interests.map((interest, index) => this.beam(interest, index)));
    this.together.replaceChildren(
      ...answer.items.map((item) => this.row(item, colourOf.get(item.interest), labelOf.get(item.interest))),
    );
    this.drawFan();
    this.focus(place);
  }

  /**
   * @param {object} answer of `POST /recommend`
   * @returns {Map<string, {colour: string, label: string}[]>} for items of the history, the interests they explain
   */
  reasons(answer) {
    const found = new Map();
    const interests = answer.interests.filter(({ items }) => items.length);
    interests.forEach(({ reasons, label }, index) => {
      for (const { item_id: id } of reasons.slice(0, REASONS_OF_A_BEAM)) {
        found.set(id, [...(found.get(id) ?? []), { colour: this.colours[index], label }]);
      }
    });
    return found;
  }

  beam({ label, weight, items, reasons }, index) {
    const nearest = reasons.slice(0, REASONS_OF_A_BEAM);
    const because = nearest.length ? [make("p", { class: "because" }, "because of ", ...listed(nearest))] : [];
    const name = make("span", { class: "label", dir: "auto" }, label);
    const heading = make("h3", {}, name, " ", make("span", { class: "share" }, percent(weight)));
    const ray = make("div", { class: "ray" });
    ray.style.blockSize = `${this.widths[index]}px`;
    const list = make("ul", { class: "titles" }, ...items.slice(0, ITEMS_OF_A_BEAM).map((item) => this.title(item)));
    const beam = make("li", { class: "beam" }, make("div", { class: "line" }, heading, ...because), ray, list);
    beam.style.setProperty("--beam", this.colours[index]);
    return beam;
  }

  row(item, colour, label) {
    const from = label ? [make("span", { class: "from" }, label)] : [];
    const row = this.title(item, ...from);
    if (colour) row.style.setProperty("--beam", colour);
    return row;
  }

  title(item, ...more) {
    const hidden = make("span", { class: "hidden-text" }, ", add to your history");
    const button = make("button", { type: "button", class: "add" }, titled(item.title), hidden);
    button.addEventListener("click", () => this.choose(item));
    return make("li", {}, button, ...more);
  }

  drawFan() {
    const rays = [...this.beams.querySelectorAll(".ray")].map((ray) => ray.getBoundingClientRect());
    const { top, width, height } = this.fan.getBoundingClientRect();
    this.fan.toggleAttribute("hidden", !rays.length);
    if (!rays.length || !width) return;
    const isAbove = getComputedStyle(this.fan).getPropertyValue("--place").trim() === "above";
    const ends = rays.map((ray, index) => ({
      middle: isAbove ? (height * (index + 0.5)) / rays.length : Math.round(ray.top) - Math.round(top) + ray.height / 2, // where pixels are
      width: ray.height,
      colour: this.colours[index],
    }));
    drawPrism(this.fan, { width, height }, ends);
  }

  /** Which of the titles has the focus: the list's number among both kinds, and the title's. */
  focused() {
    const list = document.activeElement?.closest("#beams .titles, #together");
    if (!list) return null;
    const button = document.activeElement;
    return { list: this.lists().indexOf(list), title: [...list.querySelectorAll(".add")].indexOf(button) };
  }

  /** Put the focus where it was, so that somebody at the keyboard can go on. */
  focus(place) {
    if (!place) return;
    const lists = this.lists();
    const titles = lists[Math.min(place.list, lists.length - 1)].querySelectorAll(".add");
    (titles[Math.min(place.title, titles.length - 1)] ?? byId("stage")).focus({ preventScroll: true });
  }

  lists() {
    return [this.together, ...this.beams.querySelectorAll(".titles")];
  }
}

/**
 * @param {number} count
 * @returns {string[]} CSS colours from red to violet; white light if there is only one
 */
export function spectrum(count) {
  if (count === 1) return ["var(--light)"];
  const hue = (place) => RED + ((VIOLET - RED) * place) / (count - 1);
  return Array.from({ length: count }, (_, place) => `oklch(var(--beam-tone) ${hue(place).toFixed(1)})`);
}

/** @param {number} share of 1 */
export function percent(share) {
  return share < 0.01 ? "under 1 %" : `${Math.round(share * 100)} %`;
}

function listed(items) {
  return items.flatMap(({ title }, place) => [place ? ", " : "", make("span", { dir: "auto" }, withoutYear(title))]);
}
