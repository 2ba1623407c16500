// The log of one child: the last lines, then those that come. The page holds a bounded number of them.

import { clock, element } from "./format.js";
import { follow, get } from "./server.js";

const LINES_MAX = 1500;

export class Logs {
  constructor(box, filter, latest) {
    this.box = box;
    this.filter = filter;
    this.latest = latest;
    this.stop = () => {};
    this.next = 0;
    this.pinned = true;
    this.waiting = [];
    box.addEventListener("scroll", () => {
      this.pinned = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
      latest.hidden = this.pinned;
    });
    latest.addEventListener("click", () => this.toEnd());
    filter.addEventListener("input", () => {
      for (const row of box.children) this.sift(row);
      this.toEnd();
    });
  }

  async show(name) {
    this.stop();
    this.name = name;
    this.waiting = [];
    this.box.replaceChildren();
    const path = `/api/children/${encodeURIComponent(name)}`;
    let lines = [];
    try {
      lines = await get(`${path}/logs?tail=400`);
    } catch {
      // The stream says what is the matter.
    }
    if (this.name !== name) return;
    this.next = lines.length ? lines[lines.length - 1].number + 1 : 0;
    this.add(lines);
    this.toEnd();
    this.stop = follow(() => `${path}/follow${this.next ? `?from=${this.next}` : ""}`, {
      line: (line) => {
        this.next = line.number + 1;
        // A flood is drawn once a frame.
        if (!this.waiting.length) requestAnimationFrame(() => this.add(this.waiting.splice(0)));
        this.waiting.push(line);
        if (this.waiting.length > LINES_MAX) this.waiting.shift();
      },
    });
  }

  add(lines) {
    const rows = lines.map((line) => {
      const level = levelOf(line);
      const row = element("div", `line ${level}`, element("time", "", clock(line.time)), element("span", "text", textOf(line)));
      row.dataset.stream = line.stream;
      row.title = `line ${line.number}, ${line.time}`;
      this.sift(row);
      return row;
    });
    this.box.append(...rows);
    while (this.box.childElementCount > LINES_MAX) this.box.firstChild.remove();
    if (this.pinned) this.toEnd();
  }

  sift(row) {
    const wanted = this.filter.value.toLowerCase();
    row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
  }

  toEnd() {
    this.box.scrollTop = this.box.scrollHeight;
    this.pinned = true;
    this.latest.hidden = true;
  }
}

function levelOf(line) {
  if (line.stream === "s") return "own";
  const level = line.level ?? "";
  if (/^(error|fatal|critical|50|60)/.test(level) || /\b(ERROR|FATAL|panicked)\b/.test(line.text)) return "bad";
  if (/^(warn|40)/.test(level) || /\bWARN(ING)?\b/.test(line.text)) return "fair";
  return line.stream === "e" ? "err" : "";
}

// A structured line: its message first, then what else it says.
function textOf(line) {
  const fields = line.fields;
  if (!fields) return line.text;
  const message = fields.message ?? fields.msg ?? fields.fields?.message;
  if (message === undefined) return line.text;
  const rest = Object.entries({ ...fields, ...fields.fields })
    .filter(([key, value]) => !["message", "msg", "level", "lvl", "timestamp", "time", "ts", "fields", "target"].includes(key) && typeof value !== "object")
    .map(([key, value]) => `${key}=${value}`);
  const level = line.level ? `${line.level.toUpperCase()} ` : "";
  return `${level}${message}${rest.length ? `  ${rest.join(" ")}` : ""}`;
}
