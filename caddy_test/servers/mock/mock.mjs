// oauth2-mock-server on loopback, which takes any client, name and password. Its
// tokens are JWTs that live for TTL seconds. It prints "listening on HOST:PORT".
import { OAuth2Server } from 'oauth2-mock-server';

const lifetime = Number(process.env.TTL ?? 60);
const server = new OAuth2Server();
await server.issuer.keys.generate('RS256');
server.service.on('beforeResponse', (response) => { response.body.expires_in = lifetime; });
server.service.on('beforeTokenSigning', ({ payload }) => { payload.exp = payload.iat + lifetime; });
await server.start(0, '127.0.0.1');
console.log(`listening on 127.0.0.1:${server.address().port}`);
