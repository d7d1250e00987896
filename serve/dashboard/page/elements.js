// Elements of the page that are made once and then only told what has changed.

export function element(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// A bar that is `share` full; 0 to 1.
export function fill(node, share) {
  const value = Math.max(0, Math.min(1, share || 0)).toFixed(3);
  if (node.fullness !== value) {
    node.fullness = value;
    node.style.setProperty("--share", value);
  }
}

// Keeps one child for each item under a key, in the order of the items.
export class Rows {
  constructor(parent, make) {
    this.parent = parent;
    this.make = make;
    this.kept = new Map();
  }

  show(items, key, update) {
    const wanted = new Set();
    let before = this.parent.firstElementChild;
    for (const item of items) {
      const name = key(item);
      wanted.add(name);
      let child = this.kept.get(name);
      if (!child) {
        child = this.make(item);
        this.kept.set(name, child);
      }
      if (child === before) before = before.nextElementSibling;
      else this.parent.insertBefore(child, before);
      update(child, item);
    }
    for (const [name, child] of this.kept) {
      if (!wanted.has(name)) {
        child.remove();
        this.kept.delete(name);
      }
    }
  }
}

// A list of terms with what is true of them.
export class Facts {
  constructor(list) {
    this.rows = new Rows(list, () => element("div", {}, element("dt"), element("dd")));
  }

  show(pairs) {
    this.rows.show(pairs, ([term]) => term, (row, [term, fact, tone = ""]) => {
      say(row.firstElementChild, term);
      say(row.lastElementChild, fact);
      mark(row, "data-tone", tone);
    });
  }
}

// A table with a heading for each column; a column is [heading, kind, cell], where the kind is
// "text", "number" or "bar" (whose cell gives [text, share]). Its parts name their roles: a style
// that lays a table out otherwise must not take them from whoever cannot see it.
export class Table {
  constructor(parent, caption, columns) {
    this.columns = columns;
    const heads = columns.map(([heading, kind]) =>
      element("th", { role: "columnheader", scope: "col", class: kind, text: heading }));
    const body = element("tbody", { role: "rowgroup" });
    parent.replaceChildren(element("table", { role: "table" },
      element("caption", { class: "hidden", text: caption }),
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), body));
    this.rows = new Rows(body, () => element("tr", { role: "row" }, ...columns.map(([, kind], index) =>
      (index ? element("td", { role: "cell", class: kind })
        : element("th", { role: "rowheader", scope: "row", class: kind })))));
  }

  show(items, key, tone = () => "") {
    this.rows.show(items, key, (row, item) => this.tell(row, item, tone));
  }

  // The same, row by row.
  * steps(items, key, tone = () => "") {
    const rows = [];
    this.rows.show(items, key, (row, item) => rows.push([row, item]));
    for (const [row, item] of rows) {
      yield;
      this.tell(row, item, tone);
    }
  }

  tell(row, item, tone) {
    mark(row, "data-tone", tone(item));
    this.columns.forEach(([, kind, cell], index) => {
      const value = cell(item);
      if (kind === "bar") {
        say(row.children[index], value[0]);
        fill(row.children[index], value[1]);
      } else say(row.children[index], value);
    });
  }
}
