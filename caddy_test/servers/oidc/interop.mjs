// oidc-provider on loopback with every client authentication and grant that it
// has, for the interop table. It prints "listening on HOST:PORT".
//
//     CONFIG=FILE node interop.mjs
//
// FILE is JSON: the clients; the lifetime of access tokens in seconds, and those of
// clients for which it is another; the issuers
// of assertions, each with its key; the port with TLS, at which clients may have
// a certificate, with its key, certificate and CA in PEM; and the port at which
// DPoP needs nonces.
//
// GET /stats is no part of a provider: it counts the token requests of each client,
// by how they ended.
import * as fs from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';

import { Records } from './records.mjs';

const { default: Provider, errors } = await import('oidc-provider');
const jose = await import('jose');

const config = JSON.parse(fs.readFileSync(process.env.CONFIG, 'utf8'));
const day = 86400;
const scopes = ['offline_access', 'api']; // without openid there is no ID token to be signed
const exchange = 'urn:ietf:params:oauth:grant-type:token-exchange';
const bearer = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const certificate = (ctx) => (ctx.req.socket.encrypted ? ctx.req.socket.getPeerX509Certificate() : undefined);

const stats = {}; // client → { granted, refused }

function count(ctx, outcome) {
  const id = ctx.oidc?.client?.clientId ?? 'unknown';
  stats[id] ??= { granted: 0, refused: 0 };
  stats[id][outcome]++;
}

function newProvider(issuer, dPoP) {
  const tls = `https://127.0.0.1:${config.tls.port}`;
  const provider = new Provider(issuer, {
    adapter: Records,
    clients: config.clients,
    scopes,
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    cookies: { keys: ['of browsers in tests'] },
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'tls_client_auth', 'self_signed_tls_client_auth', 'none'],
    enabledJWA: { clientAuthSigningAlgValues: ['HS256', 'RS256', 'PS256', 'ES256', 'EdDSA'] },
    rotateRefreshToken: true,
    discovery: { mtls_endpoint_aliases: { token_endpoint: `${tls}/token`, revocation_endpoint: `${tls}/token/revocation` } },
    ttl: {
      AccessToken: (ctx, token, client) => config.lifetimes[client.clientId] ?? config.lifetime, ClientCredentials: config.lifetime, RefreshToken: day, Grant: day,
      IdToken: day, Session: day, Interaction: 600, DeviceCode: 600, AuthorizationCode: 60,
    },
    features: {
      devInteractions: { enabled: true },
      deviceFlow: { enabled: true },
      clientCredentials: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: (ctx, client, token) => token.clientId === client.clientId },
      dPoP: { enabled: true, ...dPoP },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        getCertificate: certificate,
        certificateAuthorized: (ctx) => ctx.req.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn' && certificate(ctx).subject.split('\n').reverse().join(',') === expected,
      },
    },
  });
  addGrants(provider);
  provider.on('grant.success', (ctx) => count(ctx, 'granted'));
  provider.on('grant.error', (ctx, error) => {
    count(ctx, 'refused');
    console.log(`${ctx.oidc?.client?.clientId}: ${error.error} ${error.error_description} ${error.error_detail ?? ''}`);
  });
  provider.on('server_error', (ctx, error) => console.log('server_error', error));
  return provider;
}

// addGrants adds what oidc-provider leaves to its users: token exchange (RFC 8693)
// and assertions as grants (RFC 7523).
function addGrants(provider) {
  async function issue(ctx, accountId) {
    const { client, params } = ctx.oidc;
    const grant = new provider.Grant({ accountId, clientId: client.clientId });
    grant.addOIDCScope(params.scope ?? 'api');
    const token = new provider.AccessToken({ accountId, client, grantId: await grant.save(), gty: params.grant_type, scope: params.scope ?? 'api' });
    ctx.body = { access_token: await token.save(), expires_in: token.expiration, token_type: token.tokenType, scope: token.scope };
  }

  provider.registerGrantType(exchange, async (ctx) => {
    const { subject_token: subject, subject_token_type: type, actor_token: actor } = ctx.oidc.params;
    if (!subject || type !== 'urn:ietf:params:oauth:token-type:access_token') throw new errors.InvalidRequest('subject_token and subject_token_type are required');
    const find = async (token) => await provider.AccessToken.find(token) ?? await provider.ClientCredentials.find(token);
    const found = await find(subject);
    if (!found) throw new errors.InvalidGrant('subject_token is none of ours, or has ended');
    if (actor && !await find(actor)) throw new errors.InvalidGrant('actor_token is none of ours, or has ended');
    await issue(ctx, found.accountId ?? found.clientId);
    ctx.body.issued_token_type = type;
  }, ['subject_token', 'subject_token_type', 'actor_token', 'actor_token_type', 'requested_token_type', 'audience', 'resource', 'scope'], ['audience', 'resource']);

  const spent = new Set();
  provider.registerGrantType(bearer, async (ctx) => {
    const { assertion } = ctx.oidc.params;
    try {
      const { iss } = jose.decodeJwt(assertion);
      const key = await jose.importJWK(config.issuers[iss]);
      const { payload } = await jose.jwtVerify(assertion, key, { audience: [provider.issuer, `${provider.issuer}/token`], requiredClaims: ['exp', 'sub', 'jti'] });
      if (spent.has(payload.jti)) throw new Error('it was here before');
      spent.add(payload.jti);
      await issue(ctx, payload.sub);
    } catch (error) {
      throw new errors.InvalidGrant(`the assertion is not good: ${error.message}`);
    }
  }, ['assertion', 'scope']);
}

const listen = (server, port) => new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));

function answering(callback) {
  return (request, response) => {
    if (request.url !== '/stats') {
      callback(request, response);
      return;
    }
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(stats));
  };
}

const server = http.createServer({ keepAliveTimeout: 0 }); // whoever asks closes the connection
await listen(server, 0);
const address = `127.0.0.1:${server.address().port}`;
const callback = newProvider(`http://${address}`, {}).callback();
server.on('request', answering(callback));

const { port, ...pem } = config.tls;
await listen(https.createServer({ ...pem, keepAliveTimeout: 0, requestCert: true, rejectUnauthorized: false }, callback), port);

const nonces = newProvider(`http://127.0.0.1:${config.noncePort}`, { nonceSecret: Buffer.alloc(32, 7), requireNonce: () => true });
await listen(http.createServer({ keepAliveTimeout: 0 }, nonces.callback()), config.noncePort);
console.log(`listening on ${address}`);
