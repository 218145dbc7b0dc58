"use strict";
const table = document.getElementById("methods");
if (table) {
  const body = table.tBodies[0], rows = [...body.rows], form = document.getElementById("filters");
  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();

  // Rows without a figure stay last, whichever way the others are sorted.
  const sort = (column, down) => {
    const order = new Intl.Collator("en", {numeric: true}).compare;
    const compare = (a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const numbers = !isNaN(x) && !isNaN(y);
      const sign = numbers ? Math.sign(Number(x) - Number(y)) || 0 : order(x, y);
      return down ? -sign : sign;
    };
    body.append(...rows.sort(compare));
  };
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(column, down);
    });
  });

  const filter = () => {
    const asked = [...new FormData(form)].filter(([, value]) => value);
    rows.forEach(row => { row.hidden = asked.some(([name, value]) => row.dataset[name] !== value); });
    const shown = rows.filter(row => !row.hidden).length;
    document.getElementById("count").textContent = `${shown} of ${rows.length} rows`;
  };
  form.hidden = false;
  form.addEventListener("change", filter);
  form.addEventListener("submit", event => event.preventDefault());
  filter();

  table.classList.add("live");
  body.addEventListener("click", event => {
    const link = event.target.closest("tr")?.querySelector("a");
    if (link && !event.target.closest("a") && !String(getSelection())) link.click();
  });
}

const unfold = id => {
  const found = document.getElementById(id);
  if (found?.matches("details")) { found.open = true; found.scrollIntoView(); }
};
document.addEventListener("click", event => {
  const link = event.target.closest("a[href^='#']");
  if (link) unfold(link.hash.slice(1));
});
unfold(location.hash.slice(1));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(one => { one.open = true; }));

document.querySelectorAll("a[data-csv]").forEach(link => {
  link.title = "unpacked CSV";
  link.addEventListener("click", async event => {
    if (!link.dataset.csv || !window.DecompressionStream) return;
    event.preventDefault();
    const packed = Uint8Array.from(atob(link.href.split(",")[1]), letter => letter.charCodeAt(0));
    const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const made = document.createElement("a");
    made.href = URL.createObjectURL(new Blob([await new Response(plain).blob()], {type: "text/csv"}));
    made.download = link.dataset.csv;
    made.click();
    setTimeout(() => URL.revokeObjectURL(made.href), 1000);
  });
});
