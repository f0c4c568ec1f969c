// Parts of addresses. Whatever somebody types there, a page is not found, and no query fails.

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export const uuid = id => (UUID.test(id) ? id : undefined);

// PostgreSQL has no texts with a zero byte.
export const text = value => String(value ?? '').replaceAll('\0', '').toWellFormed();

export const missing = () => Object.assign(new Error('not found'), { statusCode: 404 });
