package caddy_test

import (
	"cmp"
	"strings"
)

// column is something that is checked of each row.
type column int

const (
	theFirstToken column = iota
	theRenewal
	theRotation
	theWrongCredential
	theRevocation
	theIntrospection
	columns
)

func (c column) String() string {
	return [...]string{"first token", "renewal", "rotation", "wrong credential", "revocation", "introspected by the API"}[c]
}

// offer is a way at a server.
type offer struct {
	way    string
	client string // its id there
	secret string
	scope  string
	extra  string            // what this server wants to have beside
	names  map[string]string // of what stands as {{NAME}} in the way beside
	code   string            // what it answers to a wrong credential, if not what others do
	cause  string            // what an operator is told then
	none   map[column]string
	absent string // why the server has no such way
}

// lacks says that the server has none of something.
func (o offer) lacks(c column, why string) offer {
	none := map[column]string{c: why}
	for column, reason := range o.none {
		none[column] = reason
	}
	o.none = none
	return o
}

// with names what stands as {{NAME}} in the way: names and texts, in turn.
func (o offer) with(names ...string) offer {
	o.names = make(map[string]string)
	for i := 0; i < len(names); i += 2 {
		o.names[names[i]] = names[i+1]
	}
	return o
}

// answers says what this server answers to a wrong credential, and what an operator
// is told then.
func (o offer) answers(code, cause string) offer {
	o.code, o.cause = code, cause
	return o
}

// wrongCode is what the server answers to a wrong credential.
func (o offer) wrongCode() string { return cmp.Or(o.code, wayOf(o.way).wrong.code) }

const (
	noRefreshToken = "no refresh token comes with this grant"
	notKept        = "a caller's token is in memory alone, and ends with the caller's own"
	noSuchGrant    = "it has no such grant"
	onceOnly       = "it takes no assertion twice, and one in a file is sent until it is replaced"
	exchangedAnew  = "a caller's own token is exchanged anew each time"
	noDPoP         = "it has no DPoP"
	noCredential   = "a public client has no credential"
)

// atOIDC is an offer of oidc-provider, where each way has a client of its own.
func atOIDC(word string) offer {
	o := offer{way: word, client: word, secret: clientSecret, scope: "api"}
	if way := wayOf(word); way.person || way.word == "refresh" {
		o.scope = "offline_access api"
		o.extra = "authorize_param prompt consent\n"
	}
	if !strings.HasPrefix(wayOf(word).source, authorizationCode) {
		o.extra = ""
	}
	if !strings.Contains(wayOf(word).source, secretFile) {
		o.secret = ""
	}
	return o
}

// atZitadel is an offer of zitadel's, whose tokens live for five minutes.
func atZitadel(word, client, secret string) offer {
	o := offer{way: word, client: client, secret: secret, scope: "openid"}
	if way := wayOf(word); way.person || way.word == "refresh" {
		o.scope = "openid offline_access"
	}
	if strings.HasPrefix(word, "device") {
		o.scope = "profile"
	}
	return o
}

// atFosite is an offer of fosite's client with a secret.
func atFosite(word string) offer {
	o := offer{way: word, client: "my-client", secret: "foobar", scope: "fosite offline"}
	if wayOf(word).grant == "client_credentials" {
		o.scope = "fosite"
		o = o.lacks(theRotation, noRefreshToken)
	}
	way := wayOf(word)
	if way.alg != "" && way.grant != "jwt_bearer" {
		o.client, o.secret = "key-"+strings.ToLower(way.alg), ""
		o = o.with("aud", fositeAudience)
	}
	if way.grant == "jwt_bearer" {
		o.scope, o.secret = "fosite", ""
	}
	if word == "code-public" {
		o.client, o.secret = "native", ""
		o = o.lacks(theWrongCredential, noCredential)
	}
	return o
}

func atGoOAuth2(word string) offer {
	o := offer{way: word, client: "000000", secret: "999999", scope: "all"}
	if wayOf(word).grant == "client_credentials" {
		o = o.lacks(theRotation, noRefreshToken)
	}
	if word == "code-public" {
		o.client, o.secret = "native", ""
		o = o.lacks(theWrongCredential, noCredential)
	}
	return o.lacks(theRevocation, "the library has no endpoint for it").lacks(theIntrospection, "the library has no endpoint for it, so that the API has the server itself look at the token")
}

func atMock(word string) offer {
	o := offer{way: word, client: "crm", secret: "any", scope: "all"}
	if wayOf(word).grant == "client_credentials" {
		o = o.lacks(theRotation, noRefreshToken)
	} else {
		o = o.lacks(theRotation, "it takes any refresh token")
	}
	return o.lacks(theWrongCredential, "it takes any credential").lacks(theRevocation, "its tokens are good until they end").
		lacks(theIntrospection, "it calls whatever it is asked about active, so that the API verifies the signature")
}

// absentWays are offers that a server does not have: why, and which, in turn.
func absentWays(reasons ...string) (offers []offer) {
	for i := 0; i < len(reasons); i += 2 {
		for word := range strings.FieldsSeq(reasons[i+1]) {
			offers = append(offers, offer{way: word, absent: reasons[i]})
		}
	}
	return offers
}

// theOffers are the rows of the table, by the server.
var theOffers = map[string][]offer{
	"oidc": append([]offer{
		atOIDC("cc-basic").lacks(theRotation, noRefreshToken),
		atOIDC("cc-post").lacks(theRotation, noRefreshToken),
		atOIDC("cc-secret-jwt").lacks(theRotation, noRefreshToken),
		atOIDC("cc-rs256").lacks(theRotation, noRefreshToken),
		atOIDC("cc-ps256").lacks(theRotation, noRefreshToken),
		atOIDC("cc-es256").lacks(theRotation, noRefreshToken),
		atOIDC("cc-eddsa").lacks(theRotation, noRefreshToken),
		atOIDC("cc-tls").lacks(theRotation, noRefreshToken),
		atOIDC("cc-self-signed").lacks(theRotation, noRefreshToken),
		atOIDC("cc-dpop").lacks(theRotation, noRefreshToken),
		atOIDC("cc-dpop-nonce").lacks(theRotation, noRefreshToken),
		atOIDC("code-secret"),
		atOIDC("code-public").lacks(theWrongCredential, noCredential),
		atOIDC("code-dpop").lacks(theWrongCredential, noCredential),
		atOIDC("code-key"),
		atOIDC("device-public").lacks(theWrongCredential, noCredential),
		atOIDC("device-secret"),
		atOIDC("refresh"),
		atOIDC("exchange-file").lacks(theRotation, noRefreshToken),
		atOIDC("exchange-source").with("login", "api").lacks(theRotation, noRefreshToken),
		atOIDC("exchange-caller").lacks(theRotation, exchangedAnew).lacks(theRevocation, notKept),
		atOIDC("bearer-secret").with("iss", assertionIssuer, "sub", "peter").lacks(theRotation, noRefreshToken),
	}, absentWays(
		"it takes no secret from a URL", "cc-query",
		onceOnly, "code-assertion",
		noSuchGrant, "password",
		"it wants a client at its token endpoint", "bearer",
	)...),
	"zitadel": append([]offer{
		atZitadel("cc-basic", "sid1", "verysecret").lacks(theRotation, noRefreshToken),
		atZitadel("cc-post", "sid1", "verysecret").lacks(theRotation, noRefreshToken),
		atZitadel("cc-query", "sid1", "verysecret").lacks(theRotation, noRefreshToken),
		atZitadel("code-secret", "web", "secret"),
		atZitadel("code-public", "native", "").lacks(theWrongCredential, noCredential),
		atZitadel("device-secret", "device", "secret").lacks(theRotation, noRefreshToken).answers("unauthorized_client", "the provider does not let this client use this grant").lacks(theRenewal, "its devices get no refresh token, so that a person authorizes them again"),
		atZitadel("refresh", "web", "secret"),
		atZitadel("code-key", "keyed", "").with("aud", "{{issuer}}").answers("invalid_grant", "invalid signature"),
		atZitadel("code-assertion", "keyed", "").answers("invalid_grant", "invalid signature"),
		atZitadel("exchange-file", "web", "secret").with("audience", "web").answers("invalid_request", wayOf("exchange-file").wrong.cause),
		atZitadel("exchange-source", "web", "secret").with("login", "sid1", "audience", "web"),
		atZitadel("exchange-caller", "callers", "secret").with("audience", "web").lacks(theRotation, exchangedAnew).lacks(theRevocation, notKept),
		atZitadel("bearer", "", "").with("iss", "service", "sub", "service", "aud", "{{issuer}}").lacks(theRotation, noRefreshToken).lacks(theRevocation, "it wants a client at its revocation endpoint, which this grant does without"),
	}, absentWays(
		"with this grant it takes nothing but a secret", "cc-secret-jwt cc-rs256 cc-ps256 cc-es256 cc-eddsa cc-tls cc-self-signed",
		noDPoP, "cc-dpop cc-dpop-nonce code-dpop",
		noSuchGrant, "password",
		"its devices have a secret", "device-public",
		"with this grant it looks at no client", "bearer-secret",
	)...),
	"fosite": append([]offer{
		atFosite("cc-basic"), atFosite("cc-post"),
		atFosite("cc-rs256"), atFosite("cc-ps256"), atFosite("cc-es256"),
		atFosite("password"), atFosite("code-secret"), atFosite("code-public"), atFosite("code-key"), atFosite("refresh"),
		atFosite("bearer").with("iss", assertionIssuer, "sub", "peter", "aud", fositeAudience).lacks(theRotation, noRefreshToken).lacks(theRevocation, "it wants a client at its revocation endpoint, which this grant does without"),
	}, absentWays(
		"it reads the body alone", "cc-query",
		"of signed assertions it has `private_key_jwt` alone", "cc-secret-jwt",
		"it knows RSA and EC keys alone", "cc-eddsa",
		"it does not look at certificates", "cc-tls cc-self-signed",
		noDPoP, "cc-dpop cc-dpop-nonce code-dpop",
		onceOnly, "code-assertion",
		"this version has no such grant", "device-public device-secret exchange-file exchange-source exchange-caller",
		"as it is set up here, with this grant it looks at no client", "bearer-secret",
	)...),
	"gooauth2": append([]offer{
		atGoOAuth2("cc-basic"), atGoOAuth2("cc-post"), atGoOAuth2("cc-query"), atGoOAuth2("password"), atGoOAuth2("code-secret"), atGoOAuth2("code-public"), atGoOAuth2("refresh"),
	}, absentWays(
		"its clients have a secret or nothing", "cc-secret-jwt cc-rs256 cc-ps256 cc-es256 cc-eddsa cc-tls cc-self-signed code-key code-assertion",
		noDPoP, "cc-dpop cc-dpop-nonce code-dpop",
		noSuchGrant, "device-public device-secret exchange-file exchange-source exchange-caller bearer bearer-secret",
	)...),
	"mock": append([]offer{
		atMock("cc-basic"), atMock("password"), atMock("code-public"), atMock("refresh"),
	}, absentWays(
		"it does not look at how a client proves itself", "cc-post cc-query cc-secret-jwt cc-rs256 cc-ps256 cc-es256 cc-eddsa cc-tls cc-self-signed code-secret code-key code-assertion",
		noDPoP, "cc-dpop cc-dpop-nonce code-dpop",
		noSuchGrant, "device-public device-secret exchange-file exchange-source exchange-caller bearer bearer-secret",
	)...),
}
