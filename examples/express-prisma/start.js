// npm start: the application, on the database that DATABASE_URL names.

import { app } from './app.js';

const server = app.listen(process.env.PORT ?? 3000, '127.0.0.1', () => console.log(`http://localhost:${server.address().port}/todo`));
