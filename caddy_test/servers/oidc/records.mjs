// What both servers of this folder have in common: what a Node of Debian lacks, and
// a store. It is to be imported before oidc-provider is.
import { webcrypto } from 'node:crypto';

// oidc-provider wants a newer Node than Debian's for these two.
globalThis.crypto ??= webcrypto;
URL.parse ??= (url, base) => {
  try {
    return new URL(url, base);
  } catch {
    return null;
  }
};

// Records keeps everything until it expires. The store that comes with
// oidc-provider forgets spent refresh tokens after a thousand records, and then
// takes a reuse for an unknown token.
export class Records {
  static all = new Map(); // key → { payload, expires }

  constructor(model) {
    this.model = model;
  }

  key(id) {
    return `${this.model} ${id}`;
  }

  async upsert(id, payload, expiresIn) {
    const expires = expiresIn ? Date.now() + expiresIn * 1000 : Infinity;
    Records.all.set(this.key(id), { payload, expires });
  }

  async find(id) {
    const record = Records.all.get(this.key(id));
    return record && record.expires > Date.now() ? record.payload : undefined;
  }

  async findByUid(uid) {
    return this.#findBy('uid', uid);
  }

  async findByUserCode(userCode) {
    return this.#findBy('userCode', userCode);
  }

  async #findBy(property, value) {
    for (const [key, { payload }] of Records.all) {
      if (key.startsWith(`${this.model} `) && payload[property] === value) return payload;
    }
    return undefined;
  }

  async consume(id) {
    (await this.find(id)).consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    Records.all.delete(this.key(id));
  }

  async revokeByGrantId(grantId) {
    for (const [key, { payload }] of Records.all) {
      if (key.startsWith(`${this.model} `) && payload.grantId === grantId) Records.all.delete(key);
    }
  }
}

setInterval(() => {
  for (const [key, { expires }] of Records.all) if (expires <= Date.now()) Records.all.delete(key);
}, 10_000).unref();
