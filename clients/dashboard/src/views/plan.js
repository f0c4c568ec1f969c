// A plan as a table: for each row its columns, now and afterwards, and what stands in the way.

import * as addresses from '../addresses.js';
import { choiceName } from '../queries/choices.js';
import { keyParts } from '../queries/values.js';
import { Difference } from './difference.js';
import { html } from './html.js';
import { Arrow, Value } from './value.js';
import { who } from './who.js';

const CLASSES = { ok: 'ok', conflict: 'conflict', skip: 'kept' };
const OPERATIONS = { insert: 'create', update: 'update', delete: 'delete', none: 'snapshot' };

// The choice that the reader has for a column of a step, or for its row: { name, choice, mayRestore }, or undefined if it is not in
// conflict.
function choiceAt(step, field, mode, choices) {
  const row = { table: step.tableName, key: step.keyText };
  const ofRow = choiceName(row);
  const own = field && !step.isOfRow ? choiceName({ ...row, column: field.name }) : ofRow;
  if (step.verdict === 'ok') return restoredAt(choices, row, field, ofRow);
  if (!step.reason || step.reason.isDone) return undefined;
  const choice = (choices.get(own) ?? choices.get(ofRow))?.choice;
  if (step.verdict === 'skip' && mode !== 'skip' && choice !== 'keep') return undefined;
  return { name: own, choice: choice ?? (mode === 'skip' ? 'keep' : undefined), mayRestore: step.reason.mayRestore };
}

// A step that is carried out because it was chosen.
function restoredAt(choices, row, field, ofRow) {
  const names = [field && choiceName({ ...row, column: field.name }), ofRow];
  const name = names.find(one => choices.get(one)?.choice === 'restore');
  return name && { name, choice: 'restore', mayRestore: true };
}

const choicesAt = (step, mode, choices) => (step.fields.length > 0 ? step.fields : [undefined]).map(field => choiceAt(step, field, mode, choices));

export const offersChoices = (plan, mode, choices) => plan.steps.some(step => choicesAt(step, mode, choices).some(Boolean));

// plan is that of planOf(), choices that of queries/choices.js.
export function Plan({ page, plan, mode, choices }) {
  const { t, format } = page;
  const rows = rowsOf(plan.steps);
  // Each choice is shown once. Those of rows that are cut off stay.
  const shown = new Set();
  const chooser = (step, field) => {
    const choice = choiceAt(step, field, mode, choices);
    if (!choice || shown.has(choice.name)) return undefined;
    shown.add(choice.name);
    return html`<${Chooser} page=${page} step=${step} field=${field} ...${choice} />`;
  };
  const all = new Set(plan.steps.flatMap(step => choicesAt(step, mode, choices)).filter(Boolean).map(({ name }) => name));
  const number = plan.counts.ok + plan.counts.conflict + plan.counts.skip - plan.steps.length;
  return html`
    <section aria-labelledby="plan">
      <h2 id="plan">${t(plan.counts.ok + plan.counts.conflict > 0 ? 'revert.plan' : 'revert.kept')}</h2>
      ${rows.length > 0 && html`
        <table class="plan-table">
          <thead><tr><th scope="col">${t('revert.column')}</th><th scope="col">${t('revert.now')}</th><th scope="col">${t('revert.note')}</th></tr></thead>
          ${rows.map(row => html`<${PlanRow} page=${page} row=${row} others=${plan.others} chooser=${chooser} />`)}
        </table>`}
      ${[...choices].filter(([name]) => !all.has(name)).map(([name, { choice }]) => html`<input type="hidden" name=${name} value=${choice} />`)}
      ${plan.isCut && html`<p class="dim">${t('revert.more', { count: number, number: format.number(number) })}</p>`}
      <${Statements} page=${page} steps=${plan.steps} />
    </section>`;
}

// Steps of one row that are next to each other are shown together.
function rowsOf(steps) {
  const rows = [];
  for (const step of steps) {
    const last = rows.at(-1);
    if (last && last.tableName === step.tableName && last.key.join('\0') === step.key.join('\0')) last.steps.push(step);
    else rows.push({ tableName: step.tableName, table: step.table, key: step.key, steps: [step] });
  }
  return rows;
}

function Chooser({ page: { t }, step, field, name, choice, mayRestore }) {
  const isOfRow = name === choiceName({ table: step.tableName, key: step.keyText });
  const what = [!isOfRow && field.name, step.table, ...step.key].filter(Boolean).join(' ');
  const option = value => html`<label><input type="radio" name=${name} value=${value} checked=${choice === value} /> ${t(`revert.choose.${value}`)}</label>`;
  return html`
    <fieldset class="chooser"><legend class="heard">${t('revert.choose', { what })}</legend>
      ${option('keep')}${mayRestore && option('restore')}
    </fieldset>`;
}

function PlanRow({ page, row, others, chooser = () => undefined }) {
  const { t } = page;
  const kinds = new Set(row.steps.filter(step => step.verdict !== 'skip').map(step => step.kind));
  const kind = kinds.size === 0 ? 'none' : kinds.size === 1 ? [...kinds][0] : 'update';
  return html`
    <tbody>
      <tr class="row"><th scope="rowgroup" colspan="3">
        <span class=${`operation ${OPERATIONS[kind]}`}>${t(`revert.kind.${kind}`)}</span>
        ${' '}<span class="row-name">${row.table}${row.key.length > 0 && html` <span class="key"><i>#</i>${row.key.join(', ')}</span>`}</span>
      </th></tr>
      ${row.steps.map((step, i) => html`<${Step} page=${page} step=${step} others=${others} chooser=${chooser} isRepeated=${isSame(step, row.steps[i - 1])} />`)}
    </tbody>`;
}

// What is said of one column need not be said of the next one again.
const isSame = (step, other) => other !== undefined && step.verdict === other.verdict && step.reason?.text === other.reason?.text;

function Step({ page, step, others, chooser, isRepeated }) {
  const note = !isRepeated && html`<${Note} page=${page} step=${step} others=${others} />`;
  if (step.fields.length === 0) return html`<tr class=${CLASSES[step.verdict]}><td colspan="2"></td><td class="note">${note}${chooser(step)}</td></tr>`;
  return step.fields.map((field, i) => html`
    <tr class=${CLASSES[step.verdict]}>
      <th scope="row">${field.name}</th>
      <td><${Result} page=${page} step=${step} field=${field} /></td>
      <td class="note">${i === 0 && note}${chooser(step, field)}</td>
    </tr>`);
}

function Result({ page, step, field }) {
  if (step.verdict === 'skip') return html`<${Value} page=${page} value=${field.old} />`;
  const isShort = [field.old, field.new].every(({ text }) => text.length <= 60 && !text.includes('\n'));
  if (step.kind === 'update' && isShort) return html`<${Arrow} page=${page} old=${field.old} new=${field.new} />`;
  return html`<${Difference} page=${page} field=${field} />`;
}

function Note({ page, step: { verdict, reason }, others }) {
  const { t } = page;
  const text = reason && html`<${Reason} page=${page} reason=${reason} others=${others} />`;
  if (verdict === 'ok') return text;
  return html`<strong>${t(`revert.verdict.${verdict}`)}</strong> ${text}`;
}

// What bemi gives as the reason, with a name for the change in it.
function Reason({ page, reason, others }) {
  const { t, format } = page;
  const change = reason.change && others.get(reason.change);
  if (!change) return reason.text;
  return html`${t(`revert.reason.${reason.kind}`)} <a href=${addresses.changes({ change: reason.change })}>${who(page, change.context)}, ${format.moment(change.committedAt)}</a>`;
}

function Statements({ page: { t }, steps }) {
  const text = steps.filter(step => step.statement).map(step => step.statement).join('\n');
  return text !== '' && html`
    <details class="fold"><summary>${t('revert.statements')}</summary>
      <pre class="statements" tabindex="0"><code>${text}</code></pre>
    </details>`;
}

// What bemi.restore() would do with one row. plan is that of restorationOf().
export function RestorationPlan({ page, table, primaryKey, plan }) {
  const { t } = page;
  const kind = { INSERT: 'insert', UPDATE: 'update', DELETE: 'delete' }[plan.action];
  if (!kind) return undefined;
  const row = { tableName: table.name, table: table.name, key: keyParts(primaryKey), steps: [{ kind, verdict: 'ok', fields: plan.fields }] };
  return html`
    <section aria-labelledby="plan">
      <h2 id="plan">${t('revert.plan')}</h2>
      <table class="plan-table">
        <thead><tr><th scope="col">${t('revert.column')}</th><th scope="col">${t('revert.now')}</th><th scope="col">${t('revert.note')}</th></tr></thead>
        <${PlanRow} page=${page} row=${row} others=${new Map()} />
      </table>
    </section>`;
}
