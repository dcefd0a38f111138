// oidc-provider on loopback, with its own pages to log in and to consent, which
// take any name and password. Refresh tokens rotate: one that is sent a second
// time ends the whole family (RFC 9700, section 4.14.2). An authorization with
// the scope offline_access and prompt=consent issues one. It prints "listening
// on HOST:PORT".
//
//     node oidc.mjs [PORT]        AT_TTL: lifetime of access tokens in seconds
//                                 REDIRECT_URIS: of legacy-script and native, with blanks between
//
// The clients: legacy-script has a secret; native has none and must use PKCE;
// device is what has no browser (RFC 8628).
//
// Three endpoints are no part of a provider. POST /seed returns a refresh token,
// as an authorization in a browser would have issued it. POST /revoke ends all
// grants, as the owners of the accounts may. GET /stats counts.
import * as http from 'node:http';

import { Records } from './records.mjs';

const { default: Provider } = await import('oidc-provider');

const lifetime = Number(process.env.AT_TTL ?? 60);
const day = 86400;
const account = 'peter';
const scope = 'offline_access api'; // without openid there is no ID token to be signed
const redirectURIs = (process.env.REDIRECT_URIS ?? 'http://127.0.0.1/callback').split(' ');
const deviceCode = 'urn:ietf:params:oauth:grant-type:device_code';

const stats = { tokenRequests: 0, reused: 0, familiesRevoked: 0, invalidGrant: 0 };

const server = http.createServer({ keepAliveTimeout: 0 }); // whoever asks closes the connection
await new Promise((resolve) => server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', resolve));
const address = `127.0.0.1:${server.address().port}`;

const provider = new Provider(`http://${address}`, {
  adapter: Records,
  clients: [{
    client_id: 'legacy-script',
    client_secret: 'client-secret-0123456789',
    grant_types: ['client_credentials', 'refresh_token', 'authorization_code'],
    response_types: ['code'],
    redirect_uris: redirectURIs,
    scope,
  }, {
    client_id: 'native',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    redirect_uris: redirectURIs,
    scope,
  }, {
    client_id: 'device',
    application_type: 'native',
    token_endpoint_auth_method: 'none',
    grant_types: [deviceCode, 'refresh_token'],
    response_types: [],
    redirect_uris: [],
    scope,
  }],
  scopes: scope.split(' '),
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  cookies: { keys: ['of browsers in tests'] },
  rotateRefreshToken: true,
  ttl: { AccessToken: lifetime, ClientCredentials: lifetime, RefreshToken: day, Grant: day, IdToken: lifetime, Session: day, Interaction: 600, DeviceCode: 600, AuthorizationCode: 60 },
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
  },
});

provider.on('grant.revoked', () => { stats.familiesRevoked++; });
provider.on('grant.error', (ctx, error) => {
  if (error.error !== 'invalid_grant') return;
  stats.invalidGrant++;
  if (error.error_detail === 'refresh token already used') stats.reused++;
  console.log(`${new Date().toISOString()} invalid_grant: ${error.error_detail}`);
});
provider.on('server_error', (ctx, error) => console.log('server_error', error));

async function seed() {
  const client = await provider.Client.find('legacy-script');
  const grant = new provider.Grant({ accountId: account, clientId: client.clientId });
  grant.addOIDCScope(scope);
  const refreshToken = new provider.RefreshToken({
    accountId: account,
    client,
    grantId: await grant.save(),
    gty: 'authorization_code',
    scope,
    authTime: Math.floor(Date.now() / 1000),
  });
  return { refresh_token: await refreshToken.save() };
}

// revoke takes away all that came of a grant; to its clients these tokens were
// never there.
async function revoke() {
  const grants = new Set();
  for (const [key, { payload }] of Records.all) {
    if (key.startsWith('Grant ')) grants.add(payload.jti);
  }
  for (const [key, { payload }] of Records.all) {
    if (grants.has(payload.grantId) || grants.has(payload.jti)) Records.all.delete(key);
  }
  return { grants: grants.size };
}

const own = {
  'POST /seed': seed,
  'POST /revoke': revoke,
  'GET /stats': () => stats,
};
const answer = provider.callback();
server.on('request', async (request, response) => {
  const route = own[`${request.method} ${request.url}`];
  if (!route) {
    if (request.method === 'POST' && request.url === '/token') stats.tokenRequests++;
    answer(request, response);
    return;
  }
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify(await route()));
});
console.log(`listening on ${address}`);
