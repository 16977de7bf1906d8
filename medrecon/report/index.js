"use strict";
// The table works without this script; it adds sorting and filters.
document.documentElement.classList.add("has-script");
(function () {
  const get = (id) => document.getElementById(id);
  const body = get("cases").tBodies[0];
  const rows = [...body.rows];
  const heads = [...get("cases").tHead.rows[0].cells];
  const column = Object.fromEntries(heads.map((head, k) => [head.dataset.key, k]).filter(([key]) => key));
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const text = (row, key) => row.cells[column[key]].textContent;
  const number = (row, key) => {
    const value = row.cells[column[key]].dataset.value;
    return value === "" || value === undefined ? NaN : Number(value);
  };
  const numeric = (key) => heads[column[key]].dataset.kind === "number";

  // What is not recorded comes last in both directions.
  function compare(key, down) {
    if (!numeric(key)) return (one, other) => (down ? -1 : 1) * collator.compare(text(one, key), text(other, key));
    return (one, other) => {
      const [a, b] = [number(one, key), number(other, key)];
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return down ? b - a : a - b;
    };
  }

  function sort() {
    const [key, down] = [get("sort-key").value, get("sort-down").checked];
    body.append(...[...rows].sort(compare(key, down)));
    for (const head of heads) {
      if (head.dataset.key === key) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  const limit = (id, late) => {
    const field = get(id);
    if (!field || field.value === "") return null;
    return field.type === "date" ? Date.parse(field.value) / 1000 + (late ? 86399.999 : 0) : Number(field.value);
  };

  function filter() {
    const name = get("filter-name").value.trim().toLowerCase();
    const solver = get("filter-solver").value;
    const ranges = Object.keys(column).filter(numeric)
      .map((key) => [key, limit(`least-${key}`, false), limit(`most-${key}`, true)])
      .filter(([, least, most]) => least !== null || most !== null);
    let count = 0;
    for (const row of rows) {
      const fits = text(row, "name").toLowerCase().includes(name) && (!solver || text(row, "solver") === solver)
        && ranges.every(([key, least, most]) => {
          const value = number(row, key);
          return !Number.isNaN(value) && (least === null || value >= least) && (most === null || value <= most);
        });
      row.hidden = !fits;
      count += fits;
    }
    get("shown").textContent = `${count} of ${rows.length} shown`;
  }

  for (const head of heads.filter((one) => one.dataset.key)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const again = get("sort-key").value === head.dataset.key;
      get("sort-down").checked = again ? !get("sort-down").checked : false;
      get("sort-key").value = head.dataset.key;
      sort();
    });
  }
  for (const id of ["sort-key", "sort-down"]) get(id).addEventListener("change", sort);
  get("filters").addEventListener("input", filter);
  get("clear").addEventListener("click", () => {
    for (const field of get("filters").querySelectorAll("input:not([type=checkbox]), #filter-solver")) field.value = "";
    filter();
  });
  sort();
  filter();
})();
