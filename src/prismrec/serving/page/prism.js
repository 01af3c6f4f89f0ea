/**
 * The drawing: light comes in from the left, meets the prism, and leaves it as one ray a beam.
 *
 * No light is lost: the rays are as wide as the beams that they lead to, and together as wide as what comes in.
 */

import { draw } from "./dom.js";

const SIDE = 104; // of the prism, px
const HEIGHT = (SIDE * Math.sqrt(3)) / 2;
const LOWEST = 300; // the middle of the light is at most so far down, px: with many beams the prism stays in sight
const ENTRY = 0.56; // where the light goes through, in shares of the prism's height
const FAR = 9999; // px, beyond every drawing

/**
 * @param {SVGElement} svg filled anew
 * @param {{width: number, height: number}} size px
 * @param {{middle: number, width: number, colour: string}[]} ends where each ray ends at the right, top to bottom
 */
export function drawPrism(svg, size, ends) {
  svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  const middle = Math.min((ends[0].middle + ends.at(-1).middle) / 2, LOWEST);
  const prism = { left: size.width * 0.42 - SIDE / 2, top: middle - HEIGHT * ENTRY };
  const all = ends.reduce((sum, { width }) => sum + width, 0);
  let lower = middle - all / 2;
  const rays = ends.map((end, place) => {
    lower += end.width;
    return ray(prism, end, place, lower - end.width / 2, size.width);
  });
  svg.replaceChildren(
    draw("defs", {}, incoming(prism), outside(prism), ...rays.map(({ gradient }) => gradient)),
    draw("path", { class: "glass", d: triangle(prism) }),
    draw("path", { class: "light-in", d: entering(prism, middle - all / 2, middle + all / 2) }),
    draw("g", { "clip-path": "url(#outside)" }, ...rays.map(({ path }) => path)),
    draw("path", { class: "edge", d: triangle(prism) }),
  );
}

/** A corner of the prism: 0 its top, 1 at the lower right, 2 at the lower left. */
function corner({ left, top }, number) {
  return [[left + SIDE / 2, top], [left + SIDE, top + HEIGHT], [left, top + HEIGHT]][number];
}

function triangle(prism) {
  return `M${corner(prism, 0)} L${corner(prism, 1)} L${corner(prism, 2)}Z`;
}

/** Where the prism's right side is at a height, px. */
function rightSide({ left, top }, y) {
  return left + (SIDE / 2) * (1 + (y - top) / HEIGHT);
}

/** White light from the left edge, where it is faint, to the prism's right side. */
function entering(prism, upper, lower) {
  return `M0,${upper} L${rightSide(prism, upper)},${upper} L${rightSide(prism, lower)},${lower} L0,${lower}Z`;
}

function incoming(prism) {
  const attributes = { id: "light-in", gradientUnits: "userSpaceOnUse", x1: "0", x2: String(corner(prism, 0)[0]) };
  return draw("linearGradient", attributes, draw("stop", { class: "dim", offset: "0" }), draw("stop", { offset: "1" }));
}

/** All but what lies left of the prism's right side: a ray's own end is upright, the side is slanted. */
function outside(prism) {
  const [[x, top], [right, bottom]] = [corner(prism, 0), corner(prism, 1)];
  const points = [[x, -FAR], [x, top], [right, bottom], [-FAR, bottom], [-FAR, FAR], [FAR, FAR], [FAR, -FAR]];
  return draw("clipPath", { id: "outside" }, draw("polygon", { points: points.join(" ") }));
}

function ray(prism, { middle, width, colour }, place, from, right) {
  const left = rightSide(prism, from);
  const bend = left + (right - left) * 0.55;
  const d = `M${left - width},${from} L${left},${from} C${bend},${from} ${bend},${middle} ${right - 1},${middle} L${right + 1},${middle}`;
  const path = draw("path", { class: "light-ray", d, stroke: `url(#ray-${place})`, "stroke-width": String(width) });
  const attributes = { id: `ray-${place}`, gradientUnits: "userSpaceOnUse", x1: String(left), x2: String(right) };
  const stops = [draw("stop", { offset: "0" }), draw("stop", { offset: "0.4" })];
  stops[0].style.stopColor = `color-mix(in oklab, ${colour} 65%, var(--light))`;
  stops[1].style.stopColor = colour;
  return { path, gradient: draw("linearGradient", attributes, ...stops) };
}
