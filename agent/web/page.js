// The parts of the page arrive as HTML. Unchanged elements stay in place and keep their focus,
// scroll position, typed text and folding.
'use strict';

const session = document.body.dataset.session;
const byId = (id) => document.getElementById(id);

function patch(have, want) {
  if (have.isEqualNode(want)) return;
  if (have.nodeType !== Node.ELEMENT_NODE || have.nodeName !== want.nodeName) {
    have.replaceWith(want);
    return;
  }
  for (const name of new Set([...have.getAttributeNames(), ...want.getAttributeNames()])) {
    const value = want.getAttribute(name);
    if (name === 'open' || have.getAttribute(name) === value) continue;
    if (value === null) have.removeAttribute(name); else have.setAttribute(name, value);
    // A field that was edited by hand no longer follows its attributes.
    if (name === 'value' && have.nodeName === 'INPUT') have.value = value;
    if (name === 'selected') have.selected = value !== null;
  }
  patchChildren(have, want);
}

function patchChildren(have, want) {
  let at = have.firstChild;
  for (const child of [...want.childNodes]) {
    const fold = child.dataset?.fold;
    const known = fold ? [...have.children].find((other) => other.dataset.fold === fold) : at;
    if (!known || known.dataset?.fold !== fold) {
      have.insertBefore(child, at);
      continue;
    }
    if (known !== at) have.insertBefore(known, at);
    at = known.nextSibling;
    patch(known, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function show(parts) {
  for (const [id, html] of Object.entries(parts)) {
    const part = byId(id);
    if (!part) continue;
    const want = new DOMParser().parseFromString(`<div>${html}</div>`, 'text/html');
    patchChildren(part, want.body.firstChild);
  }
  follow();
}

// The chat stays scrolled to its end, also when a picture loads, unless the user has scrolled up.
const chat = byId('chat');
let isAtEnd = true;
function follow() {
  if (chat && isAtEnd) chat.scrollTop = chat.scrollHeight;
}
chat?.addEventListener('scroll', () => {
  isAtEnd = chat.scrollTop + chat.clientHeight > chat.scrollHeight - 30;
});
document.addEventListener('load', follow, true);

function notify(text) {
  byId('notice').textContent = text;
  byId('notice').hidden = !text;
}

async function post(path, body) {
  const headers = {'content-type': 'application/json'};
  const answer = await fetch(path, {method: 'POST', headers, body: JSON.stringify(body)});
  if (!answer.ok) throw new Error(`The server refused it (${answer.status}).`);
  return answer.json();
}

const LOST = 'The connection to the server is lost; the page tries again.';

// Requests are sent one by one, since edits of a plan must arrive in order.
let queue = Promise.resolve();
let waiting = 0;
function inTurn(work) {
  document.body.toggleAttribute('data-busy', ++waiting > 0);
  // Browsers report an unreachable server as a TypeError with different messages.
  const why = (error) => (error instanceof TypeError ? LOST : error.message);
  queue = queue.then(work).catch((error) => notify(why(error))).finally(() => {
    document.body.toggleAttribute('data-busy', --waiting > 0);
  });
  return queue;
}

// Every control submits a line, as if it had been typed into the chat. Controls of a plan send its
// mark, since another plan may be pending by then.
function say(line, control) {
  const plan = control.closest('[data-plan]')?.dataset.plan ?? '';
  return inTurn(async () => {
    const answer = await post('/say', {session, line, plan});
    notify(answer.notice);
    show(answer.parts);
  });
}

const handlers = {
  line(form) {
    const line = form.elements.text.value.trim();
    if (line) say(line, form);
    form.reset();
    isAtEnd = true;
  },
  query(form) {
    inTurn(async () => {
      const query = new URLSearchParams({session, query: form.elements.text.value});
      const answer = await fetch(`/memory?${query}`);
      show({found: await answer.text()});
    });
  },
  begin(form) {
    inTurn(async () => {
      const answer = await post('/sessions', {preset: form.elements.text.value});
      notify(answer.notice ?? '');
      if (answer.session) location.href = `/?${new URLSearchParams({session: answer.session})}`;
    });
  },
};

document.addEventListener('submit', (event) => {
  const form = event.target;
  event.preventDefault();
  if (form.dataset.say) say(`${form.dataset.say} ${form.elements.text.value}`, form);
  else handlers[form.id]?.(form);
});
document.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-say]');
  if (button) say(button.dataset.say, button);
  if (event.target.id === 'notice') notify('');
});
document.addEventListener('change', async (event) => {
  const field = event.target;
  if (!field.dataset.edit || !field.value) return;
  await say(`/edit ${field.dataset.edit} ${field.value}`, field);
  // A refused value is reset to the current one.
  if (field.options) for (const option of field.options) option.selected = option.defaultSelected;
  else field.value = field.defaultValue;
});
document.addEventListener('keydown', (event) => {
  if (event.target.id === 'line-text' && event.key === 'Enter' && !event.shiftKey) {
    event.preventDefault();
    event.target.form.requestSubmit();
  }
  if (event.key === 'Escape') notify('');
  const down = {ArrowDown: 1, ArrowUp: -1}[event.key];
  const right = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  if (down) step('#timeline summary', event, down);
  if (right && event.target.role === 'tab') select(step('[role=tab]', event, right));
});

// Arrow keys move between rounds of the timeline, or between tabs.
function step(css, event, by) {
  const all = [...document.querySelectorAll(css)];
  const at = all.indexOf(event.target);
  if (at < 0 || !all[at + by]) return event.target;
  event.preventDefault();
  all[at + by].focus();
  return all[at + by];
}

function select(tab) {
  for (const other of document.querySelectorAll('[role=tab]')) {
    other.ariaSelected = String(other === tab);
    other.tabIndex = other === tab ? 0 : -1;
    byId(other.getAttribute('aria-controls')).hidden = other !== tab;
  }
  history.replaceState(null, '', `#${tab.textContent}`);
}
for (const tab of document.querySelectorAll('[role=tab]')) {
  tab.addEventListener('click', () => select(tab));
  if (location.hash === `#${tab.textContent}`) select(tab);
}

// Browsers limit the connections to a server, so hidden pages close their stream.
let events = null;
function listen() {
  if (document.hidden) {
    events?.close();
    events = null;
  } else if (!events) {
    events = new EventSource(`/events?${new URLSearchParams({session})}`);
    events.onmessage = (event) => show(JSON.parse(event.data));
    events.onopen = () => byId('notice').textContent === LOST && notify('');
    events.onerror = () => notify(LOST);
  }
}
document.addEventListener('visibilitychange', listen);
listen();
follow();
