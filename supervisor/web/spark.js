// A curve of the last minutes in the space of a word. Gaps stay gaps.

const WIDTH = 96;
const HEIGHT = 22;
const SVG = "http://www.w3.org/2000/svg";

export class Spark {
  constructor(points) {
    this.points = points;
    this.values = [];
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("class", "spark");
    this.svg.setAttribute("aria-hidden", "true");
    this.area = this.svg.appendChild(document.createElementNS(SVG, "path"));
    this.area.setAttribute("class", "area");
    this.line = this.svg.appendChild(document.createElementNS(SVG, "path"));
    this.line.setAttribute("class", "line");
  }

  set(values) {
    this.values = values.slice(-this.points);
    this.draw();
  }

  add(value) {
    this.values.push(value ?? null);
    if (this.values.length > this.points) this.values.shift();
    this.draw();
  }

  draw() {
    const known = this.values.filter((value) => value !== null && value !== undefined);
    this.svg.classList.toggle("empty", known.length < 2);
    const most = Math.max(...known, 1e-9) * 1.08;
    const step = WIDTH / (this.points - 1);
    const first = this.points - this.values.length;
    let line = "";
    let area = "";
    let begun = null;
    const end = (x) => {
      if (begun !== null) area += `L${x.toFixed(1)} ${HEIGHT}L${begun.toFixed(1)} ${HEIGHT}Z`;
      begun = null;
    };
    this.values.forEach((value, index) => {
      const x = (first + index) * step;
      if (value === null || value === undefined) {
        end(x - step);
        return;
      }
      const y = HEIGHT - 1 - (value / most) * (HEIGHT - 3);
      const move = begun === null ? "M" : "L";
      line += `${move}${x.toFixed(1)} ${y.toFixed(1)}`;
      area += `${move}${x.toFixed(1)} ${y.toFixed(1)}`;
      if (begun === null) begun = x;
    });
    end((first + this.values.length - 1) * step);
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
  }
}
