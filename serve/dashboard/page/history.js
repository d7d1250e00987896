// What the page has seen of a figure since it was opened, as a small curve.

const LENGTH = 300; // Seconds: one point each.
const WIDTH = 300;
const HEIGHT = 40;
const SPACE = "http://www.w3.org/2000/svg";

export class History {
  constructor(svg, { least = 0, most } = {}) {
    this.least = least;
    this.most = most;
    this.values = [];
    this.curve = document.createElementNS(SPACE, "path");
    this.curve.setAttribute("class", "curve");
    this.bound = document.createElementNS(SPACE, "path");
    this.bound.setAttribute("class", "bound");
    svg.replaceChildren(this.bound, this.curve);
  }

  // Take the next value; undefined leaves a gap. `bound` is a line to compare with.
  add(value, bound) {
    this.values.push(value);
    if (this.values.length > LENGTH) this.values.shift();
    const known = this.values.filter((each) => each !== undefined);
    const most = this.most ?? Math.max(1e-9, bound ?? 0, ...known) * 1.05;
    const y = (each) => HEIGHT - 1 - (HEIGHT - 2) * (each - this.least) / (most - this.least);
    const start = WIDTH - this.values.length;
    let path = "";
    let drawing = false;
    this.values.forEach((each, index) => {
      if (each === undefined) drawing = false;
      else {
        path += `${drawing ? "L" : "M"}${start + index} ${y(Math.max(this.least, each)).toFixed(1)}`;
        drawing = true;
      }
    });
    this.curve.setAttribute("d", path);
    this.bound.setAttribute("d", bound === undefined ? "" : `M0 ${y(bound).toFixed(1)}H${WIDTH}`);
  }
}
