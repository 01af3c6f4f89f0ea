/**
 * Search as you type: a combobox with a list of titles, as the ARIA practices describe it.
 *
 * The focus stays in the field; arrows move the choice, Enter takes it, Escape closes the list.
 */

import { newest, searchItems } from "./api.js";
import { byId, make, titled } from "./dom.js";

const PAUSE_MS = 140; // between the last key and the question

export class Search {
  /**
   * @param {(item: {item_id: string, title: string}) => void} choose called with the item that was chosen
   * @param {(id: string) => boolean} isKnown whether an item is in the history already
   * @param {(text: string) => void} tell for those who cannot see the list
   */
  constructor(choose, isKnown, tell) {
    this.field = byId("search");
    this.list = byId("found");
    this.note = byId("search-note");
    this.choose = choose;
    this.isKnown = isKnown;
    this.tell = tell;
    this.items = [];
    this.active = -1;
    this.isStale = false; // the list is of an earlier text
    this.isTaken = false; // Enter came before the list
    this.signal = newest();
    this.field.addEventListener("input", () => this.typed());
    this.field.addEventListener("keydown", (event) => this.pressed(event));
    this.field.addEventListener("blur", () => this.close());
    this.field.addEventListener("focus", () => this.field.value.trim() && this.typed());
    // Pressing must not take the focus from the field: that would close the list before the click.
    this.list.addEventListener("pointerdown", (event) => event.preventDefault());
    this.list.addEventListener("click", (event) => this.take(Number(event.target.closest("li")?.dataset.place ?? -1)));
  }

  typed() {
    this.isStale = true;
    this.isTaken = false;
    clearTimeout(this.timer);
    const signal = this.signal(); // an answer to what stood there before is of no use any more
    const query = this.field.value.trim();
    if (!query) this.close();
    else this.timer = setTimeout(() => this.find(query, signal), PAUSE_MS);
  }

  async find(query, signal) {
    try {
      const items = await searchItems(query, signal);
      if (!signal.aborted) this.show(items, query);
    } catch (error) {
      if (signal.aborted) return;
      this.close();
      this.note.textContent = `The search failed. ${error.message}`;
      this.tell(this.note.textContent);
    }
  }

  show(items, query) {
    this.items = items;
    this.note.textContent = items.length ? "" : `No title has “${query}” in it.`;
    this.tell(items.length ? `${items.length} titles found.` : this.note.textContent);
    this.list.replaceChildren(...items.map((item, place) => this.option(item, place)));
    this.open(items.length > 0);
    this.activate(items.length ? 0 : -1);
    this.isStale = false;
    if (this.isTaken) this.take(0);
  }

  option(item, place) {
    const known = this.isKnown(item.item_id) ? [make("span", { class: "note" }, "in your history")] : [];
    const attributes = { role: "option", id: `found-${place}`, "data-place": String(place), "aria-selected": "false" };
    return make("li", attributes, titled(item.title), ...known);
  }

  pressed(event) {
    if (event.isComposing) return; // the keys are an input method's
    const steps = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (steps && this.items.length && !this.list.hidden) {
      event.preventDefault();
      this.activate((this.active + steps + this.items.length) % this.items.length);
    } else if (steps === 1 && this.list.hidden) {
      this.typed();
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (this.isStale) this.isTaken = true;
      else this.take(this.active);
    } else if (event.key === "Escape") {
      if (this.list.hidden) this.field.value = "";
      this.close();
    }
  }

  activate(place) {
    this.list.children[this.active]?.setAttribute("aria-selected", "false");
    this.active = place;
    const option = this.list.children[place];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.field.setAttribute("aria-activedescendant", option.id);
    else this.field.removeAttribute("aria-activedescendant");
  }

  take(place) {
    const item = this.list.hidden ? undefined : this.items[place];
    if (!item) return;
    this.field.value = "";
    this.close();
    this.choose(item);
  }

  open(isOpen) {
    this.list.hidden = !isOpen;
    this.field.setAttribute("aria-expanded", String(isOpen));
  }

  close() {
    clearTimeout(this.timer);
    this.signal();
    this.isStale = this.isTaken = false;
    this.items = [];
    this.note.textContent = "";
    this.open(false);
    this.activate(-1);
    this.list.replaceChildren();
  }
}
