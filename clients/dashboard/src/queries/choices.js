// What was chosen for single columns and rows in conflict, as bemi.plan_revert() takes it, and as it stands in addresses and forms.
//
// In an address: choices=[["public.order","86","status","keep"],["public.order","87",null,"restore"]]. null is the whole row.

// Addresses may not be longer than servers and proxies take.
const LONGEST = 6000;
const CHOICES = ['keep', 'restore'];
const FIELD = 'choice:';

// The name of the choice of a column, or of a row without one.
export const choiceName = ({ table, key, column }) => FIELD + JSON.stringify([table, key, column ?? null]);

// A map: name -> { table, key, column, choice }.
export const newChoices = list => new Map(list.map(one => [choiceName(one), one]));

function readOne(value) {
  if (!Array.isArray(value) || value.length !== 4) return undefined;
  const [table, key, column, choice] = value;
  const isValid = typeof table === 'string' && typeof key === 'string' && (column === null || typeof column === 'string') && CHOICES.includes(choice);
  return isValid ? { table, key, column: column ?? undefined, choice } : undefined;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// What means nothing is left out: the plan then shows the conflict.
export function choicesOfText(text) {
  const list = text ? parsed(text) : [];
  return newChoices(Array.isArray(list) ? list.map(readOne).filter(Boolean) : []);
}

// The fields of a form: choice:["public.order","86","status"] = keep.
export function choicesOfForm(body) {
  const fields = Object.entries(body).filter(([name]) => name.startsWith(FIELD));
  return newChoices(fields.map(([name, choice]) => readOne([parsed(name.slice(FIELD.length)), choice].flat())).filter(Boolean));
}

// undefined: there are none.
export const textOfChoices = choices =>
  (choices.size > 0 ? JSON.stringify([...choices.values()].map(({ table, key, column, choice }) => [table, key, column ?? null, choice])) : undefined);

export const areTooMany = choices => encodeURIComponent(textOfChoices(choices) ?? '').length > LONGEST;

// The argument of bemi.plan_revert().
export const jsonOfChoices = choices => JSON.stringify([...choices.values()]);
