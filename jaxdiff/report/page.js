// A link into a folded part opens it; some browsers do so by themselves.
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  let opened = false;
  for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) {
    opened ||= !fold.open;
    fold.open = true;
  }
  if (opened) target.scrollIntoView();
};
addEventListener("hashchange", unfold);
// The same link again, after the reader has folded the part, changes no hash.
addEventListener("click", (event) => { if (event.target.closest('a[href^="#"]')) setTimeout(unfold); });
unfold();

// Paper has no folds.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => { fold.open = true; }));

// A click on a column's head sorts by it, numbers as numbers; another click turns the order.
const compare = (a, b) => {
  const [x, y] = [Number(a), Number(b)];
  // Number("") is 0, but a blank is no number.
  if (a !== "" && b !== "" && !isNaN(x) && !isNaN(y)) return x - y;
  return a.localeCompare(b, undefined, { numeric: true });
};
document.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const head = button.parentElement;
  const table = head.closest("table");
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows];
  const text = (row) => row.cells[head.cellIndex].textContent.trim();
  rows.sort((a, b) => sign * compare(text(a), text(b)));
  table.tBodies[0].append(...rows);
}));

// The list says which topic is in view.
const links = new Map([...document.querySelectorAll("nav > ul > li > a")].map((link) => [link.hash.slice(1), link]));
// In view is what reaches into the upper 30 % of the window.
const observer = new IntersectionObserver((entries) => entries.forEach((entry) => {
  if (!entry.isIntersecting) return;
  links.forEach((link) => link.classList.remove("here"));
  links.get(entry.target.id)?.classList.add("here");
}), { rootMargin: "0px 0px -70% 0px" });
links.forEach((_, id) => observer.observe(document.getElementById(id)));
