/* Sets what was chosen between dark and light before the page is first painted. */
{
  const theme = localStorage.getItem("bitloom.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
}
