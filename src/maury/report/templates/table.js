// Search and sort the rows of the one table.
(() => {
  const table = document.getElementById("table"), body = table.tBodies[0], found = document.getElementById("found");
  const rows = [...body.rows];
  const search = document.getElementById("search");
  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let n = 0;
    for (const row of rows) {
      row.hidden = wanted !== "" && !row.textContent.toLowerCase().includes(wanted);
      n += row.hidden ? 0 : 1;
    }
    found.textContent = `${n} of ${rows.length}`;
  };
  search.addEventListener("input", filter);
  const buttons = [...table.querySelectorAll("button.sort")];
  buttons.forEach((button, column) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of buttons) other.closest("th").removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].textContent.trim().replace("\u2212", "-").replace(/^< /, "");
      const compare = (a, b) => {
        const x = key(a), y = key(b), p = parseFloat(x), q = parseFloat(y);
        // What has no value stands last either way.
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = column > 1 && Number.isFinite(p) && Number.isFinite(q) ? p - q : x.localeCompare(y);
        return down ? -order : order;
      };
      body.append(...rows.sort(compare));
    });
  });
  filter();
})();
