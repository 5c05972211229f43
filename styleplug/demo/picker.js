const show = () => {
  const chosen = element.querySelector(`input[value="${CSS.escape(props.value)}"]`);
  if (chosen) chosen.checked = true;
};
const search = () => {
  const words = element.querySelector("[type=search]").value.toLowerCase().split(/\s+/);
  let found = 0;
  for (const section of element.querySelectorAll("section")) {
    let here = 0;
    for (const label of section.querySelectorAll("label")) {
      label.hidden = !words.every((word) => label.dataset.words.includes(word));
      here += !label.hidden;
    }
    section.hidden = !here;
    found += here;
  }
  element.querySelector(".nothing").hidden = found > 0;
};
element.addEventListener("input", (event) => {
  if (event.target.type === "search") search();
});
element.addEventListener("change", (event) => {
  if (event.target.type === "radio") props.value = event.target.value;
});
watch(["value", "groups"], show);
watch("groups", () => {
  element.querySelector("[type=search]").value = "";
  search();
});
show();
