// What is shown if a page cannot be. An error of PostgreSQL is shown with its detail and hint, because the reader can
// often mend it: a right that is missing, a server that is away.

import { html } from '../views/html.js';
import { Gone, isConnectionLost } from '../database.js';

export function showError(error, request, reply) {
  if (error instanceof Gone || request.gone?.aborted) return reply.code(499).send();
  const { t } = request.page ?? {};
  const { status, key } = kindOf(error);
  if (status === 500) request.log.error(error);
  reply.code(status);
  if (!t) return reply.type('text/plain').send('error\n');
  // A form is not sent once more by itself.
  const mayRetry = key === 'away' && request.method === 'GET' && !request.page.part;
  const body = html`<${ErrorView} page=${request.page} error=${error} kind=${key} mayRetry=${mayRetry} />`;
  if (request.page.part) return reply.part(body);
  return reply.show(`error.${key}.title`, body, { isBare: !request.database });
}

// What was asked for is not right, is not there, or is not possible now.
const REFUSALS = [[/^(?:22|42703)/, 400], [/^(?:02|42704|P0002)/, 404], [/^(?:0A|23|2B|2F|44|55|P0|42710|42P0[67])/, 409]];

function kindOf(error) {
  const { statusCode, code, kind } = error;
  if (kind) return { status: statusCode, key: kind };
  if (statusCode === 404) return { status: 404, key: 'missing' };
  if (statusCode === 429) return { status: 429, key: 'often' };
  if (statusCode === 403 || code === 'FST_CSRF_INVALID_TOKEN') return { status: 403, key: 'forged' };
  if (statusCode >= 400 && statusCode < 500) return { status: statusCode, key: 'request' };
  if (code === '57014') return { status: 504, key: 'timeout' };
  // A role that may not log in any more, too.
  if (code === '42501' || /^28/.test(code ?? '')) return { status: 403, key: 'rights' };
  if (isConnectionLost(error)) return { status: 503, key: 'away' };
  if (['42P01', '42883', '3F000'].includes(code)) return { status: 503, key: 'extension' };
  const [, status] = REFUSALS.find(([codes]) => codes.test(code ?? '')) ?? [];
  if (status) return { status, key: 'database' };
  if (/^[0-9A-Z]{5}$/.test(code ?? '')) return { status: 500, key: 'database' };
  return { status: 500, key: 'ours' };
}

function ErrorView({ page: { t, link }, error, kind, mayRetry }) {
  // A customer with a link can do nothing about it.
  const isDatabase = error.severity !== undefined && !link;
  return html`
    <section class="message" role="alert" data-retry=${mayRetry ? '' : undefined}>
      <h1>${t(`error.${kind}.title`)}</h1>
      <p>${t(`error.${kind}.text`)}</p>
      ${error.command && !link && html`<pre><code>${error.command}</code></pre>`}
      ${isDatabase && html`
        <pre><code>${[error.message, error.detail].filter(Boolean).join('\n')}</code></pre>
        ${error.hint && html`<p>${error.hint}</p>`}`}
    </section>`;
}
