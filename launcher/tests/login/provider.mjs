// A real OpenID Connect provider on a free port of loopback. Prints its address. `opaque` as argument: its access tokens are no JWTs.
import Provider from "oidc-provider";

const format = process.argv.includes("opaque") ? "opaque" : "jwt";
const resource = "urn:vsekai:updates";
const scopes = "release:write release:delete user:email";

const native = {
  application_type: "native",
  redirect_uris: ["http://127.0.0.1/callback"],
  grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
  response_types: ["code"],
};

// The port is part of the issuer's name, so it is found first.
const { createServer } = await import("node:http");
const server = createServer();
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    { ...native, client_id: "launcher", token_endpoint_auth_method: "none" },
    { ...native, client_id: "your_client_id", client_secret: "your_client_secret", token_endpoint_auth_method: "client_secret_basic" },
    { client_id: "service", client_secret: "service_secret", redirect_uris: [], grant_types: [], response_types: [] },
  ],
  scopes: ["openid", "offline_access", ...scopes.split(" ")],
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true, allowedPolicy: (_, client) => client.clientId === "service" },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: scopes, audience: resource, accessTokenFormat: format, accessTokenTTL: 600, jwt: { sign: { alg: "RS256" } } }),
    },
  },
  rotateRefreshToken: true,
  ttl: { AccessToken: 600, AuthorizationCode: 60, DeviceCode: 600, Grant: 3600, IdToken: 600, Interaction: 600, RefreshToken: 3600, Session: 3600 },
  cookies: { keys: ["for this test only"] },
});
server.on("request", provider.callback());
console.log(issuer);
