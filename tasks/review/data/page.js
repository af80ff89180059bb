"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const cases = facts.cases;
  const by = (id) => document.getElementById(id);
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  const WHY_HIDDEN =
    "What stands out from other series is hidden until you ask for it: whoever is told so sees faults more easily. " +
    "Judge the picture first.";
  const WHY_SHOWN = "Shown: what stands out from series of the same site and sequence. " +
    "It is advice, not a verdict, and it sways whoever reads it.";
  const MOST_IN_CELL = 6;
  const MOST_REMARKS = 3; // lines that fit beside a visit
  const COLUMN_WIDTH = 146;
  const OVERSCAN = 8; // rows made above and below those in view

  const state = {
    view: "visits",
    words: [],
    only: "all",
    advice: false,
    sort: { list: ["subject", 1], visits: ["subject", 1] },
  };

  // Texts go into the page as text nodes alone; nothing here ever reads them as markup.
  function make(name, details = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(details)) {
      if (value === undefined || value === null || value === false) continue;
      if (key === "class") node.className = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 || noun === "series" ? "" : "s"}`;

  for (const one of cases) {
    for (const name of ["faults", "notes", "images", "flags", "metrics"]) one[name] ??= [];
    for (const name of ["label", "description", "why", "visit", "series", "bare"]) one[name] ??= "";
    const told = [
      one.id,
      one.subject,
      one.visit,
      one.label,
      one.kind,
      one.modality,
      one.description,
      one.verdict,
      one.why,
    ];
    for (const [name] of one.images) told.push(name);
    for (const [code, text] of [...one.faults, ...one.notes]) told.push(code, text);
    one.text = told.join("\n").toLowerCase();
    one.advised = one.flags.join("\n").toLowerCase();
    one.title = one.label || one.kind;
  }
  const byId = new Map(cases.map((one) => [one.id, one]));

  const STATES = [
    ["all", "All", () => true],
    ["faults", "Faults", (one) => one.faults.length > 0],
    ["incomplete", "Incomplete", (one) => Boolean(one.incomplete)],
    ["unconverted", "Not converted", (one) => one.images.length === 0],
    ["guessed", "Name guessed", (one) => one.images.some((image) => image[1] === "guess")],
    ["flagged", "Stands out", (one) => one.flags.length > 0],
  ];
  const fits = (one) =>
    STATES.find((entry) => entry[0] === state.only)[2](one) &&
    state.words.every((word) => one.text.includes(word) || (state.advice && one.advised.includes(word)));

  // What a case is marked with, in the order of weight: class, sign, words.
  function marks(one) {
    const found = [];
    if (one.faults.length) found.push(["bad", "!", plural(one.faults.length, "fault")]);
    if (one.incomplete) found.push(["care", "\u00bd", "files are missing"]);
    if (!one.images.length) found.push(["void", "\u00d7", "not converted"]);
    if (state.advice && one.flags.length) found.push(["tip", "\u2605", "stands out"]);
    return found;
  }

  function picture(one, extra = {}) {
    const signs = marks(one);
    const words = [one.subject, one.visit, one.title, ...signs.map((sign) => sign[2])].filter(Boolean).join(", ");
    const { class: more = "", ...rest } = extra;
    const button = make("button", {
      type: "button",
      class: `picture ${more}`,
      "data-id": one.id,
      "aria-label": words,
      title: words,
      ...rest,
    });
    if (one.thumbnail) button.append(make("img", { src: one.thumbnail, alt: "", loading: "lazy", decoding: "async" }));
    else button.append(make("span", {}, one.modality || "no picture"));
    if (signs.length) {
      button.append(
        make(
          "span",
          { class: "marks", "aria-hidden": "true" },
          ...signs.map(([kind, sign]) => make("span", { class: `mark ${kind}` }, sign)),
        ),
      );
    }
    return button;
  }

  // -- the two tables: each gives its columns, its rows, and how a row is made --------------------------------------

  const clamp = (text, more = "") => make("div", { class: `clamp ${more}` }, text);

  const list = {
    height: 78,
    columns() {
      const columns = [
        ["picture", "Picture", null],
        ["subject", "Subject", (one) => one.subject],
        ["visit", "Visit", (one) => one.visit],
        ["series", "Series", (one) => one.title],
        ["name", "Name in the data set", (one) => (one.images.length ? one.images[0][0] : "")],
        ["verdict", "Geometry", (one) => one.verdict],
        ["files", "Files", (one) => (one.incomplete ? 0 : one.unknown ? 1 : 2)],
        ["faults", "Faults", (one) => one.faults.length],
      ];
      if (state.advice) columns.push(["flags", "Stands out", (one) => one.flags.length]);
      return columns;
    },
    rows(shown) {
      const [name, way] = state.sort.list;
      const key = this.columns().find((column) => column[0] === name)?.[2] ?? ((one) => one.subject);
      const sorted = shown.map((one) => [key(one), one]);
      sorted.sort((one, other) =>
        way * (typeof one[0] === "number" ? one[0] - other[0] : compare(one[0], other[0])) ||
        one[1].place - other[1].place
      );
      return sorted.map((pair) => pair[1]);
    },
    shown: (rows) => rows,
    head() {
      const cells = this.columns().map((
        [name, title, key],
      ) => (key ? sortable("list", name, title) : make("th", { scope: "col" }, title)));
      return [make("tr", { "aria-rowindex": 1 }, ...cells)];
    },
    widths() {
      return this.columns().map(([name]) => make("col", { class: `c-${name}` }));
    },
    row(one, number) {
      const cells = [
        make("td", {}, picture(one, { class: "first", "data-row": number, "data-cell": 0 })),
        make("th", { scope: "row" }, clamp(one.subject)),
        make("td", {}, clamp(one.visit)),
        make(
          "td",
          { title: one.description },
          clamp(one.title, "one"),
          one.description ? clamp(one.description, "two soft name") : null,
        ),
        make("td", {}, names(one)),
        make(
          "td",
          {},
          one.verdict === "volume"
            ? make("span", { class: "soft" }, one.verdict)
            : make("span", { class: "badge" }, one.verdict),
        ),
        make("td", {}, files(one)),
        make("td", {}, faults(one)),
      ];
      if (state.advice) {
        cells.push(
          make("td", { title: one.flags.join("\n") }, one.flags.length ? clamp(one.flags.join(" "), "name") : null),
        );
      }
      return make("tr", { "data-id": one.id }, ...cells);
    },
  };

  function names(one) {
    if (!one.images.length) return make("span", { class: "badge void" }, "not converted");
    const [name, by] = one.images[0];
    // Subject and visit stand beside it: the folder and what follows them is what tells it apart.
    const parts = name.split("/");
    const short = parts.pop().replace(/^sub-[^_]+_(ses-[^_]+_)?/, "");
    const cell = make("div", { title: name }, clamp(parts.length ? `${parts.pop()}/${short}` : short, "two name"));
    if (by === "guess") cell.append(make("span", { class: "badge care" }, "guess"));
    if (by === "none") cell.append(make("span", { class: "badge" }, "no BIDS name"));
    if (one.images.length > 1) cell.append(make("span", { class: "badge" }, `+${one.images.length - 1}`));
    return cell;
  }

  function files(one) {
    if (one.incomplete) return make("span", { class: "badge care" }, "incomplete");
    return make("span", { class: "soft" }, one.unknown ? "not known" : "complete");
  }

  function faults(one) {
    if (!one.faults.length) return make("span", { class: "soft" }, "none");
    const codes = [...new Set(one.faults.map((fault) => fault[0]))];
    const cell = make("div", {}, make("span", { class: "badge bad" }, codes[0]));
    if (codes.length > 1) cell.append(" ", make("span", { class: "badge bad" }, `+${codes.length - 1}`));
    return cell;
  }

  // One row a visit of a subject, one column a kind of series.
  const visitRows = [];
  {
    const found = new Map();
    cases.forEach((one, place) => {
      one.place = place;
      const key = JSON.stringify([one.subject, one.visit]);
      if (!found.has(key)) {
        const row = { subject: one.subject, visit: one.visit, cells: [], cases: [], place: visitRows.length };
        found.set(key, row);
        visitRows.push(row);
      }
      const row = found.get(key);
      (row.cells[one.column] ??= []).push(one);
      row.cases.push(one);
    });
  }
  const hasOthers = cases.some((one) => one.column === facts.columns.length);
  const columnNames = hasOthers ? [...facts.columns, "Other series"] : facts.columns;
  const columnCounts = columnNames.map((_, column) => visitRows.filter((row) => row.cells[column]).length);

  const visits = {
    height: 100,
    rows(shown) {
      const fitting = new Set(shown);
      const rows = visitRows.filter((row) => row.cases.some((one) => fitting.has(one)));
      const [name, way] = state.sort.visits;
      const key = {
        subject: (row) => row.subject,
        visit: (row) => row.visit,
        faults: (row) => row.cases.reduce((sum, one) => sum + one.faults.length, 0),
      }[name];
      const keyed = rows.map((row) => [key(row), row]);
      keyed.sort((one, other) =>
        way * (typeof one[0] === "number" ? one[0] - other[0] : compare(one[0], other[0])) ||
        one[1].place - other[1].place
      );
      this.fitting = fitting;
      return keyed.map((pair) => pair[1]);
    },
    shown(rows) {
      return rows.flatMap((row) => row.cases.filter((one) => this.fitting.has(one)));
    },
    head() {
      const subject = sortable("visits", "subject", "Subject");
      const visit = sortable("visits", "visit", "Visit");
      subject.classList.add("head");
      visit.classList.add("when");
      const cells = columnNames.map((name, column) =>
        make(
          "th",
          { scope: "col" },
          name,
          make(
            "span",
            { class: "soft" },
            `${columnCounts[column].toLocaleString("en")} of ${plural(visitRows.length, "visit")}`,
          ),
        )
      );
      return [make("tr", { "aria-rowindex": 1 }, subject, visit, ...cells, sortable("visits", "faults", "Remarks"))];
    },
    widths() {
      by("table").style.minWidth = `${200 + COLUMN_WIDTH * columnNames.length + 110}px`;
      const columns = columnNames.map(() => make("col"));
      for (const column of columns) column.style.width = `${COLUMN_WIDTH}px`;
      return [make("col", { class: "c-head" }), make("col", { class: "c-when" }), ...columns, make("col")];
    },
    row(row, number, before) {
      const again = before && before.subject === row.subject;
      const line = make(
        "tr",
        { class: again ? "again" : "begin" },
        make("th", { scope: "row", class: "head" }, clamp(row.subject)),
        make("td", { class: "when" }, clamp(row.visit)),
      );
      let cell = 0;
      columnNames.forEach((name, column) => {
        const held = row.cells[column] ?? [];
        if (!held.length) {
          line.append(
            make(
              "td",
              {},
              make(
                "div",
                { class: "none", title: `no ${name}` },
                make("span", { "aria-hidden": "true" }, "\u2013"),
                make("span", { class: "hidden" }, "none"),
              ),
            ),
          );
          return;
        }
        const box = make("div", {
          class: `cell ${held.length === 1 ? "" : held.length === 2 ? "two" : held.length <= 4 ? "two four" : "six"}`,
        });
        const shown = held.length > MOST_IN_CELL ? held.slice(0, MOST_IN_CELL - 1) : held;
        for (const one of shown) {
          box.append(
            picture(one, { class: this.fitting.has(one) ? "" : "off", "data-row": number, "data-cell": cell++ }),
          );
        }
        if (shown.length < held.length) {
          const more = make("button", {
            type: "button",
            class: "picture more",
            "data-row": number,
            "data-cell": cell++,
          }, `+${held.length - shown.length}`);
          more.addEventListener(
            "click",
            () => searchFor(`${row.subject} ${row.visit} ${column < facts.columns.length ? name : ""}`),
          );
          box.append(more);
        }
        line.append(make("td", {}, box));
      });
      line.append(make("td", { class: "remarks" }, remarks(row)));
      return line;
    },
  };

  // What is to be said of a visit's series: one line each, as many as fit.
  function remarks(row) {
    const lines = [];
    for (const one of row.cases) {
      const said = [];
      for (const code of new Set(one.faults.map((fault) => fault[0]))) said.push(["bad", code]);
      if (one.incomplete) said.push(["care", "incomplete"]);
      if (!one.images.length && !one.faults.some((fault) => fault[0] === "not-converted")) {
        said.push(["void", "not converted"]);
      }
      if (one.images.some((image) => image[1] === "guess")) said.push(["care", "name guessed"]);
      if (state.advice && one.flags.length) said.push(["tip", "stands out"]);
      if (said.length) {
        lines.push([
          `${one.title}: ${said.map((entry) => entry[1]).join(", ")}`,
          make(
            "li",
            {},
            ...said.map(([kind, words]) => make("span", { class: `badge ${kind}` }, words)),
            " ",
            one.title,
          ),
        ]);
      }
    }
    const shown = lines.length > MOST_REMARKS ? lines.slice(0, MOST_REMARKS - 1) : lines;
    const box = make("ul", { title: lines.map((line) => line[0]).join("\n") }, ...shown.map((line) => line[1]));
    if (shown.length < lines.length) {
      box.append(make("li", { class: "soft" }, `and ${lines.length - shown.length} more`));
    }
    return box;
  }

  const views = { list, visits };

  function sortable(view, name, title) {
    const [by_, way] = state.sort[view];
    const head = make("th", {
      scope: "col",
      "aria-sort": by_ === name ? (way > 0 ? "ascending" : "descending") : "none",
    });
    head.append(make("button", { type: "button", "data-sort": name, onclick: () => sortBy(view, name) }, title));
    return head;
  }

  function sortBy(view, name) {
    const [before, way] = state.sort[view];
    // Numbers begin with the largest: whoever sorts by faults looks for those that have some.
    const first = name === "faults" || name === "flags" ? -1 : 1;
    state.sort[view] = [name, before === name ? -way : first];
    redraw();
    by("head").querySelector(`[data-sort="${name}"]`)?.focus();
  }

  // -- drawing: only rows in view are there, between two rows as high as those that are not ---------------------------

  const scroller = by("scroller");
  const body = by("body");
  const above = make("tr", { class: "space", "aria-hidden": "true" }, make("td"));
  const below = make("tr", { class: "space", "aria-hidden": "true" }, make("td"));
  let rows = [];
  let order = [];
  let made = new Map();

  function redraw() {
    const view = views[state.view];
    const shown = cases.filter(fits);
    rows = view.rows(shown);
    order = view.shown(rows);
    made = new Map();
    const table = by("table");
    table.className = `${state.view}${state.advice ? " advised" : ""}`;
    table.style.minWidth = "";
    table.querySelector("colgroup")?.remove();
    table.prepend(make("colgroup", {}, ...view.widths()));
    table.setAttribute("aria-rowcount", rows.length + 1);
    table.setAttribute(
      "aria-label",
      state.view === "list" ? "Series, one a row" : "Visits of subjects, one a row; kinds of series, one a column",
    );
    table.hidden = rows.length === 0;
    by("nothing").hidden = rows.length !== 0;
    by("head").replaceChildren(...view.head());
    body.replaceChildren(above, below);
    by("count").textContent = `${plural(order.length, "series")} shown`;
    drawStates();
    draw();
  }

  function draw() {
    const { height } = views[state.view];
    const first = Math.max(0, Math.floor(scroller.scrollTop / height) - OVERSCAN);
    const last = Math.min(rows.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / height) + OVERSCAN);
    for (const [number, row] of made) {
      if (number < first || number >= last) {
        row.remove();
        made.delete(number);
      }
    }
    let next = below;
    for (let number = last - 1; number >= first; number--) {
      let row = made.get(number);
      if (!row) {
        row = views[state.view].row(rows[number], number, rows[number - 1]);
        row.setAttribute("aria-rowindex", number + 2);
        made.set(number, row);
        body.insertBefore(row, next);
      }
      next = row;
    }
    above.firstChild.style.height = `${first * height}px`;
    below.firstChild.style.height = `${(rows.length - Math.max(last, first)) * height}px`;
  }

  function drawStates() {
    const box = by("states");
    const focused = document.activeElement?.dataset?.state;
    box.replaceChildren();
    for (const [name, title, test] of STATES) {
      if (name === "flagged" && !state.advice) continue;
      const count = cases.filter(test).length;
      if (name !== "all" && !count && name !== state.only) continue;
      const button = make(
        "button",
        { type: "button", "data-state": name, "aria-pressed": String(state.only === name) },
        title,
        make("span", { class: "number" }, count.toLocaleString("en")),
      );
      button.addEventListener("click", () => {
        state.only = state.only === name ? "all" : name;
        fromTop();
      });
      box.append(button);
      if (name === focused) button.focus();
    }
  }

  function fromTop() {
    scroller.scrollTop = 0;
    redraw();
  }

  function show(view) {
    state.view = view;
    by("view-visits").setAttribute("aria-pressed", String(view === "visits"));
    by("view-list").setAttribute("aria-pressed", String(view === "list"));
    fromTop();
  }

  function search(text) {
    state.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    fromTop();
  }

  function searchFor(text) {
    by("search").value = text.trim();
    state.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    show("list");
  }

  function setAdvice(on) {
    state.advice = on;
    if (!on && state.only === "flagged") state.only = "all";
    if (!on && state.sort.list[0] === "flags") state.sort.list = ["subject", 1];
    by("advice").setAttribute("aria-checked", String(on));
    by("advice-why").textContent = on ? WHY_SHOWN : WHY_HIDDEN;
    redraw();
    if (by("case").open) open(current);
  }

  // The arrow keys go from picture to picture; rows that are not there yet are made on the way.
  body.addEventListener("keydown", (event) => {
    const at = event.target.dataset;
    if (at.row === undefined) return;
    let [row, cell] = [Number(at.row), Number(at.cell)];
    if (event.key === "ArrowDown") row++;
    else if (event.key === "ArrowUp") row--;
    else if (event.key === "ArrowRight") cell++;
    else if (event.key === "ArrowLeft") cell--;
    else if (event.key === "Home") row = 0;
    else if (event.key === "End") row = rows.length - 1;
    else return;
    event.preventDefault();
    row = Math.min(Math.max(row, 0), rows.length - 1);
    const { height } = views[state.view];
    const head = by("head").offsetHeight;
    const visible = scroller.clientHeight - head;
    if (row * height < scroller.scrollTop) scroller.scrollTop = row * height;
    else if ((row + 1) * height > scroller.scrollTop + visible) scroller.scrollTop = (row + 1) * height - visible;
    draw();
    const line = made.get(row);
    const target = line?.querySelector(`[data-cell="${cell}"]`) ??
      (event.key.startsWith("Arrow") && cell > Number(at.cell)
        ? null
        : [...(line?.querySelectorAll("[data-cell]") ?? [])].pop());
    target?.focus();
  });

  body.addEventListener("click", (event) => {
    const id = event.target.closest("[data-id]")?.dataset.id;
    if (id !== undefined) open(byId.get(id));
  });

  // -- one case ------------------------------------------------------------------------------------------------------

  const dialog = by("case");
  let current = null;
  let wanted = "montage"; // stays from case to case

  function quoted(word, isWindows) {
    if (/^[\w@%+=:,.\/-]+$/.test(word)) return word;
    return isWindows ? `"${word}"` : `'${word.replaceAll("'", "'\\''")}'`;
  }

  function command(one) {
    let path = facts.manifest;
    let isWindows = false;
    if (location.protocol === "file:") {
      const folder = decodeURIComponent(location.pathname).replace(/[^\/]*$/, "");
      isWindows = /^\/[A-Za-z]:/.test(folder);
      path = (isWindows ? folder.slice(1) : folder) + facts.manifest;
    }
    return facts.command.split(/(\{manifest\}|\{entry\})/).map((
      part,
    ) => (part === "{manifest}" ? quoted(path, isWindows) : part === "{entry}" ? quoted(one.id, isWindows) : part))
      .join("");
  }

  async function copy(text, box, button) {
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      getSelection().selectAllChildren(box);
      done = document.execCommand("copy"); // where the clipboard is not open to this page
    }
    button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
  }

  function found(title, entries) {
    if (!entries.length) return [];
    return [
      make("h3", {}, title),
      make(
        "ul",
        {},
        ...entries.map(([code, text, names]) =>
          make(
            "li",
            { title: facts.codes[code] },
            make("span", { class: `badge ${title === "Faults" ? "bad" : ""}` }, code),
            " ",
            text,
            names.length ? make("span", { class: "soft" }, names.join(", ")) : null,
          )
        ),
      ),
    ];
  }

  function about(one) {
    const box = make("div", { class: "about" });
    const NAMED_BY = {
      guess: ["care", "guess"],
      none: ["", "no BIDS name"],
      rule: ["", "by the study\u2019s rule"],
      reproin: ["", "ReproIn"],
    };
    box.append(make("h3", {}, "Acquired"), make("p", {}, one.description || "not known"));
    box.append(
      make("h3", {}, "Geometry"),
      make("p", {}, make("span", { class: "badge" }, one.verdict), " ", facts.verdicts[one.verdict] ?? ""),
    );
    box.append(
      make("h3", {}, "Files"),
      make(
        "p",
        {},
        one.incomplete ? make("span", { class: "badge care" }, "incomplete") : "",
        one.incomplete
          ? " Files of the series are missing, or have not arrived yet."
          : one.unknown
          ? "Whether all are there is not known."
          : "All are there.",
      ),
    );
    box.append(make("h3", {}, "In the BIDS data set"));
    if (one.images.length) {
      box.append(make(
        "ul",
        {},
        ...one.images.map(([name, by, shape]) => {
          const [kind, words] = NAMED_BY[by] ?? ["", by];
          return make(
            "li",
            {},
            make("code", {}, name),
            " ",
            make("span", { class: `badge ${kind}` }, words),
            shape.length ? make("span", { class: "soft" }, shape.join(" \u00d7 ")) : null,
          );
        }),
      ));
    }
    if (one.why || !one.images.length) {
      box.append(
        make(
          "p",
          {},
          make("span", { class: "badge void" }, one.images.length ? "in part" : "not converted"),
          " ",
          one.why,
        ),
      );
    }
    box.append(...found("Faults", one.faults), ...found("Notes", one.notes));
    if (state.advice) {
      box.append(make("h3", {}, "What stands out (advice)"));
      box.append(
        one.flags.length
          ? make(
            "ul",
            {},
            ...one.flags.map((text) => make("li", {}, make("span", { class: "badge tip" }, "\u2605"), " ", text)),
          )
          : make("p", { class: "soft" }, "Nothing."),
      );
      if (one.metrics.length) {
        box.append(make(
          "table",
          {},
          make(
            "tbody",
            {},
            ...one.metrics.map(([name, figure]) =>
              make("tr", {}, make("td", {}, facts.metrics[name]), make("td", {}, figure))
            ),
          ),
        ));
      }
    }
    const others = cases.filter((other) => other.subject === one.subject && other.kind === one.kind);
    if (others.length > 1) {
      box.append(
        make("h3", {}, `All ${others[0].kind} of ${one.subject}`),
        make(
          "div",
          { class: "others" },
          ...others.map((other) =>
            make(
              "figure",
              {},
              picture(other, { "aria-current": other === one ? "true" : null, onclick: () => open(other) }),
              make("figcaption", { class: "soft" }, other.visit),
            )
          ),
        ),
      );
    }
    const text = command(one);
    const code = make("code", { class: "command", tabindex: 0 }, text);
    const button = make("button", { type: "button", class: "plain", id: "copy" }, "Copy");
    button.addEventListener("click", () => copy(text, code, button));
    box.append(make("h3", {}, "Open in the viewer"), code, button);
    if (location.protocol !== "file:") {
      box.append(make("p", { class: "soft" }, "In the folder that holds the manifest."));
    }
    return box;
  }

  function pictures(one) {
    const box = make("div", { class: "show", tabindex: 0, id: "show" });
    const source = wanted === "course" && one.course ? one.course : one.montage;
    if (source) {
      const what = source === one.course ? "Mean, standard deviation, traces and carpet plot of " : "All slices of ";
      const image = make("img", { src: source, alt: what + [one.subject, one.visit, one.title].join(", ") });
      image.addEventListener("click", () => image.classList.toggle("full"));
      box.append(image);
    } else {
      box.append(make("p", {}, one.bare ? `No picture: ${one.bare}` : "No picture."));
    }
    return box;
  }

  function open(one) {
    current = one;
    const focused = dialog.open ? document.activeElement?.id : "";
    const place = order.indexOf(one);
    const top = make(
      "div",
      { class: "top" },
      make("h2", { id: "case-title" }, [one.subject, one.visit, one.title].filter(Boolean).join(" \u00b7 ")),
    );
    if (one.course && one.montage) {
      const tabs = make("div", { class: "tabs", role: "tablist", "aria-label": "Picture" });
      for (const [name, title] of [["montage", "All slices"], ["course", "Over time"]]) {
        const tab = make("button", {
          type: "button",
          role: "tab",
          id: `tab-${name}`,
          "aria-controls": "show",
          "aria-selected": String(wanted === name),
        }, title);
        tab.addEventListener("click", () => {
          wanted = name;
          open(one);
        });
        tabs.append(tab);
      }
      top.append(tabs);
    }
    const step = (id, title, to) =>
      make("button", {
        type: "button",
        class: "plain",
        id,
        disabled: !order[to] || place < 0,
        onclick: () => open(order[to]),
      }, title);
    top.append(
      make(
        "span",
        { class: "soft" },
        place < 0 ? "" : `${(place + 1).toLocaleString("en")} of ${order.length.toLocaleString("en")}`,
      ),
    );
    top.append(step("before", "\u2190 Previous", place - 1), step("after", "Next \u2192", place + 1));
    top.append(make("button", { type: "button", class: "plain", id: "close", onclick: () => dialog.close() }, "Close"));
    dialog.replaceChildren(top, pictures(one), about(one));
    if (!dialog.open) dialog.showModal();
    const target = by(focused || "show");
    (target && !target.disabled ? target : by("show")).focus();
    history.replaceState(null, "", `#${encodeURIComponent(one.id)}`);
    for (const next of [order[place + 1], order[place - 1]]) {
      if (place >= 0 && next?.montage) new Image().src = (wanted === "course" && next.course) || next.montage;
    }
  }

  dialog.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const place = order.indexOf(current);
    const to = event.key === "ArrowRight" ? place + 1 : event.key === "ArrowLeft" ? place - 1 : -1;
    const image = dialog.querySelector(".show img.full");
    if (place < 0 || !order[to] || image) return; // an enlarged picture is scrolled with the arrows
    event.preventDefault();
    open(order[to]);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    dialog.replaceChildren(); // nothing that was shown stays
    history.replaceState(null, "", location.pathname + location.search);
    const place = state.view === "list" ? rows.indexOf(current) : rows.findIndex((row) => row.cases.includes(current));
    if (place < 0) return;
    const { height } = views[state.view];
    if (
      place * height < scroller.scrollTop ||
      (place + 1) * height > scroller.scrollTop + scroller.clientHeight - by("head").offsetHeight
    ) {
      scroller.scrollTop = Math.max(0, place * height - scroller.clientHeight / 3);
    }
    draw();
    [...body.querySelectorAll("button[data-id]")].find((button) => button.dataset.id === current.id)?.focus();
  });

  function openNamed() {
    let id = "";
    try {
      id = decodeURIComponent(location.hash.slice(1));
    } catch {
      return;
    }
    if (byId.has(id)) open(byId.get(id));
  }

  // -- the beginning -------------------------------------------------------------------------------------------------

  const subjects = new Set(cases.map((one) => one.subject)).size;
  by("totals").textContent = [
    plural(subjects, "subject"),
    plural(visitRows.length, "visit"),
    plural(cases.length, "series"),
  ].join(", ");
  by("search").addEventListener("input", (event) => search(event.target.value));
  by("view-visits").addEventListener("click", () => show("visits"));
  by("view-list").addEventListener("click", () => show("list"));
  by("advice").addEventListener("click", () => setAdvice(!state.advice));
  by("reset").addEventListener("click", () => {
    by("search").value = "";
    state.words = [];
    state.only = "all";
    fromTop();
  });
  scroller.addEventListener("scroll", () => draw(), { passive: true });
  addEventListener("resize", () => draw());
  addEventListener("hashchange", openNamed);
  setAdvice(false);
  openNamed();
})();
