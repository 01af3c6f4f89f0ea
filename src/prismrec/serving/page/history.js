/** The history as a list, newest first: each title can be moved and removed, with buttons that keys reach too. */

import { byId, make, titled } from "./dom.js";

export class History {
  /**
   * @param {{move: (id: string, steps: number) => void, remove: (id: string) => void}} actions
   */
  constructor(actions) {
    this.list = byId("history");
    this.note = byId("history-note");
    this.actions = actions;
  }

  /**
   * @param {string[]} ids oldest first
   * @param {(id: string) => string} titleOf
   * @param {Set<string>} unknown ids that the catalogue does not have
   * @param {Map<string, {colour: string, label: string}[]>} reasons the interests that an item explains
   */
  show(ids, titleOf, unknown, reasons) {
    const focus = this.focused();
    this.note.textContent = ids.length ? "newest first" : "Nothing yet.";
    const newestFirst = ids.toReversed();
    this.list.replaceChildren(
      ...newestFirst.map((id, place) => {
        const ends = { isFirst: place === 0, isLast: place === ids.length - 1 };
        return this.item(id, titleOf(id), ends, unknown.has(id), reasons.get(id) ?? []);
      }),
    );
    this.focus(focus);
  }

  item(id, title, { isFirst, isLast }, isUnknown, reasons) {
    const dots = reasons.map(({ colour, label }) => {
      const dot = make("span", { class: "dot", title: `a reason for ${label}` });
      dot.style.setProperty("--beam", colour);
      return dot;
    });
    const unknown = isUnknown ? [make("span", { class: "note" }, "not in this catalogue")] : [];
    return make(
      "li", { "data-id": id },
      make("span", { class: "what" }, titled(title), ...unknown),
      make("span", { class: "dots" }, ...dots),
      this.button("up", "↑", `Move ${title} up`, isFirst, () => this.actions.move(id, 1)),
      this.button("down", "↓", `Move ${title} down`, isLast, () => this.actions.move(id, -1)),
      this.button("remove", "×", `Remove ${title}`, false, () => this.actions.remove(id)),
    );
  }

  button(name, sign, label, isOff, action) {
    const button = make("button", { type: "button", class: "tool", "data-name": name, "aria-label": label }, sign);
    button.disabled = isOff;
    button.addEventListener("click", action);
    return button;
  }

  focused() {
    const item = this.list.contains(document.activeElement) ? document.activeElement.closest("li") : null;
    if (!item) return null;
    const place = [...this.list.children].indexOf(item);
    return { id: item.dataset.id, place, name: document.activeElement.dataset.name };
  }

  /** Follow the item that was moved; after a removal take the one that moved up, and the search after the last. */
  focus(was) {
    if (!was) return;
    const items = [...this.list.children];
    const item = items.find(({ dataset }) => dataset.id === was.id) ?? items[Math.min(was.place, items.length - 1)];
    const buttons = item ? [...item.querySelectorAll("button:enabled")] : [];
    (buttons.find(({ dataset }) => dataset.name === was.name) ?? buttons[0] ?? byId("search")).focus();
  }
}
