// Every control in the page's own tables says a line, as if it had been typed into the chat.
// What is pressed at a plan is about that plan, which may not be the one that waits by now.
const say = (control, line) =>
  trigger('submit', {line, plan: control.closest('[data-plan]')?.dataset.plan || ''});
let key = null;
element.addEventListener('focusin', (event) => { key = event.target.dataset.key || null; });
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-say]');
  if (button) say(button, button.dataset.say);
});
element.addEventListener('change', (event) => {
  const field = event.target.closest('[data-edit]');
  if (field && field.value) say(field, `/edit ${field.dataset.edit} ${field.value}`);
});
element.addEventListener('submit', (event) => {
  event.preventDefault();
  say(event.target, `${event.target.dataset.say} ${event.target.elements.text.value}`);
});
// Rounds of the timeline: arrows go from one to the next, Enter opens one.
element.addEventListener('keydown', (event) => {
  const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
  const heads = [...element.querySelectorAll('.timeline summary')];
  const at = heads.indexOf(event.target);
  if (!step || at < 0) return;
  event.preventDefault();
  heads[at + step]?.focus();
});
const folds = new Map();
element.addEventListener('toggle', (event) => {
  folds.set(event.target.dataset.fold, event.target.open);
}, true);
// A part that is drawn anew would lose the focus of who uses the keyboard, and what was opened.
new MutationObserver(() => {
  for (const fold of element.querySelectorAll('details[data-fold]'))
    fold.open = folds.get(fold.dataset.fold) ?? fold.open;
  if (key && document.activeElement === document.body)
    element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}).observe(element, {childList: true, subtree: true});
