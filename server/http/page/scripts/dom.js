/** Finds an element of the page. */
function $(id) {
  return document.getElementById(id);
}

/** Makes an element. Children are elements or texts: a text never becomes markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Sets a text, if it is another one: what has not changed is not read out again. */
function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** Sets a number with its unit in small. */
function sayNumber(element, number, unit) {
  element.replaceChildren(number, make("small", {}, ` ${unit}`));
}

function setPart(element, part, whole) {
  element.style.setProperty("--part", `${whole ? Math.min(100, (100 * part) / whole) : 0}%`);
}

const SVG = "http://www.w3.org/2000/svg";

function makeShape(tag, attributes) {
  const shape = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    shape.setAttribute(name, value);
  }
  return shape;
}

/** Makes the name of an adapter; "" is the base. */
function nameOf(adapterId, title = adapterId) {
  const kind = adapterId ? "name" : "name base-name";
  return make("span", { class: kind, title }, adapterId || "base model");
}

/** Gives a count's words: 1 row, 2 rows. */
function counted(number, one, many = `${one}s`) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}

const WHOLE = new Intl.NumberFormat("en");

function whole(number) {
  return WHOLE.format(Math.round(number));
}

function rounded(number) {
  return number < 10 ? number.toFixed(1) : whole(number);
}

const UNITS = ["B", "KB", "MB", "GB", "TB"];

function bytes(number) {
  let unit = 0;
  while (number >= 1000 && unit < UNITS.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit ? rounded(number) : number} ${UNITS[unit]}`;
}

/** Gives seconds as [number, unit]. */
function duration(seconds) {
  return seconds < 1 ? [rounded(1000 * seconds), "ms"] : [seconds.toFixed(2), "s"];
}

/** Gives the part of a version that people tell it by. */
function short(version) {
  return version.slice(0, 8);
}
