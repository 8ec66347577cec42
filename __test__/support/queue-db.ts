// queue.db is only touched by other processes than the one that has the addon: two copies of SQLite in one process
// take each other's POSIX locks away.

import { execFileSync } from 'node:child_process';

import { Running, root } from './processes.js';

const open = "const database = new (require('better-sqlite3'))(process.argv[1]);";

/** Runs SQL on a database file in another process and returns the rows of its last statement. */
export function sql(file: string, text: string): unknown {
  const code = `${open}
    const statements = process.argv[2].split(';').filter((part) => part.trim() !== '');
    const last = statements.pop();
    for (const statement of statements) database.exec(statement);
    const prepared = database.prepare(last);
    process.stdout.write(JSON.stringify(prepared.reader ? prepared.all() : prepared.run().changes));`;
  const stdout = execFileSync(process.execPath, ['--eval', code, file, text], { cwd: root, encoding: 'utf8' });
  return JSON.parse(stdout);
}

/** Holds the write lock of a database file in another process until `release` is called, or the test ends. */
export async function lock(file: string): Promise<{ release: () => Promise<void> }> {
  const code = `${open} database.exec('BEGIN IMMEDIATE'); console.log('locked'); setInterval(() => {}, 1 << 30);`;
  const holder = new Running(process.execPath, ['--eval', code, file]);
  await holder.says('locked');
  return {
    release: async () => {
      holder.child.kill('SIGKILL');
      await holder.ended;
    },
  };
}
