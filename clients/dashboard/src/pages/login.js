// The page to log in, as a role of PostgreSQL or at a provider of OpenID Connect.

import { LoginRefused } from '../access/accounts.js';
import { html } from '../views/html.js';

const LIMIT = { max: 20, timeWindow: '1 minute' };

export function loginPage(page, { next = '/', user = '', problem } = {}) {
  const { t } = page;
  return html`
    <main class="entry" id="content">
      <h1 class="brand">bemi</h1>
      <p>${t('login.text')}</p>
      ${problem && html`<p class="problem" role="alert">${t(`login.problem.${problem}`)}</p>`}
      <form class="form" method="post" action="/login">
        <input type="hidden" name="_csrf" value=${page.csrf()} />
        <input type="hidden" name="next" value=${next} />
        <label class="field"><span>${t('login.user')}</span><input name="user" value=${user} autocomplete="username" autocapitalize="none" spellcheck="false" required /></label>
        <label class="field"><span>${t('login.password')}</span><input name="password" type="password" autocomplete="current-password" required /></label>
        <p class="actions"><button class="primary">${t('login.submit')}</button></p>
      </form>
      ${page.provider && html`<p><a class="button" href=${`/login/provider?next=${encodeURIComponent(next)}`}>${t('login.provider', { name: page.provider })}</a></p>`}
    </main>`;
}

export function addLogin(app, { accounts }) {
  app.get('/login', { config: { isPublic: true } }, ({ page }, reply) => reply.show('login.title', loginPage(page), { isBare: true }));

  app.post('/login', { config: { isPublic: true, rateLimit: LIMIT } }, async (request, reply) => {
    const { page, body, session } = request;
    const user = String(body.user ?? '').trim();
    const next = ownPath(body.next);
    try {
      const login = await accounts.logIn(user, String(body.password ?? ''));
      // Who was logged in already is so once, as the new role.
      accounts.logOut(session.get('login'));
      session.regenerate();
      session.set('login', login);
    } catch (error) {
      if (!(error instanceof LoginRefused)) throw error;
      reply.code(error.kind === 'often' ? 429 : 401);
      return reply.show('login.title', loginPage(page, { next, user, problem: error.kind }), { isBare: true });
    }
    return reply.redirect(next, 303);
  });

  app.post('/logout', (request, reply) => {
    accounts.logOut(request.session.get('login'));
    request.session.delete();
    return reply.redirect('/', 303);
  });
}

// A path of the dashboard. An address of somebody else in a form must lead nowhere else, and to a browser, a path that begins with two
// slashes is a host.
export function ownPath(text) {
  try {
    const url = new URL(String(text ?? '/'), 'http://dashboard.invalid');
    return url.origin === 'http://dashboard.invalid' ? url.pathname.replace(/^\/+/, '/') + url.search : '/';
  } catch {
    return '/';
  }
}
