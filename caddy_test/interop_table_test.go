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
	extra  string // what this server wants to have beside
	code   string // what it answers to a wrong credential, if not what others do
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

// answers says what this server answers to a wrong credential.
func (o offer) answers(code string) offer {
	o.code = code
	return o
}

// wrongCode is what the server answers to a wrong credential.
func (o offer) wrongCode() string { return cmp.Or(o.code, wayOf(o.way).wrong.code) }

const (
	noRefreshToken = "no refresh token comes with this grant"
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
	return o.lacks(theRevocation, "the library has no endpoint for it").lacks(theIntrospection, "the library has no endpoint for it; the API has the server look at the token")
}

func atMock(word string) offer {
	o := offer{way: word, client: "crm", secret: "any", scope: "all"}
	if wayOf(word).grant == "client_credentials" {
		o = o.lacks(theRotation, noRefreshToken)
	} else {
		o = o.lacks(theRotation, "it takes any refresh token")
	}
	return o.lacks(theWrongCredential, "it takes any credential").lacks(theRevocation, "its tokens are good until they end").
		lacks(theIntrospection, "it calls whatever it is asked about active; the API verifies the signature")
}

// absentWays are offers that a server does not have, for one reason.
func absentWays(why, words string) (offers []offer) {
	for word := range strings.FieldsSeq(words) {
		offers = append(offers, offer{way: word, absent: why})
	}
	return offers
}

// theOffers are the rows of the table, by the server.
var theOffers = map[string][]offer{
	"oidc": append([]offer{
		atOIDC("cc-basic").lacks(theRotation, noRefreshToken),
		atOIDC("cc-post").lacks(theRotation, noRefreshToken),
		atOIDC("code-secret"),
		atOIDC("code-public").lacks(theWrongCredential, noCredential),
		atOIDC("device-public").lacks(theWrongCredential, noCredential),
		atOIDC("device-secret"),
		atOIDC("refresh"),
	}, append(absentWays("it takes no secret from a URL", "cc-query"), absentWays("it has no such grant", "password")...)...),
	"zitadel": append([]offer{
		atZitadel("cc-basic", "sid1", "verysecret").lacks(theRotation, noRefreshToken),
		atZitadel("cc-post", "sid1", "verysecret").lacks(theRotation, noRefreshToken),
		atZitadel("cc-query", "sid1", "verysecret").lacks(theRotation, noRefreshToken),
		atZitadel("code-secret", "web", "secret"),
		atZitadel("code-public", "native", "").lacks(theWrongCredential, noCredential),
		atZitadel("device-secret", "device", "secret").lacks(theRotation, noRefreshToken).answers("unauthorized_client").lacks(theRenewal, "its devices get no refresh token: a person authorizes them again"),
		atZitadel("refresh", "web", "secret"),
	}, append(absentWays("it has no such grant", "password"), absentWays("its devices have a secret", "device-public")...)...),
	"fosite": append([]offer{
		atFosite("cc-basic"), atFosite("cc-post"), atFosite("password"), atFosite("code-secret"), atFosite("refresh"),
	}, append(absentWays("it reads the body alone", "cc-query"), append(absentWays("its example has no public client", "code-public"), absentWays("this version has no such grant", "device-public device-secret")...)...)...),
	"gooauth2": append([]offer{
		atGoOAuth2("cc-basic"), atGoOAuth2("cc-post"), atGoOAuth2("cc-query"), atGoOAuth2("password"), atGoOAuth2("code-secret"), atGoOAuth2("code-public"), atGoOAuth2("refresh"),
	}, absentWays("it has no such grant", "device-public device-secret")...),
	"mock": append([]offer{
		atMock("cc-basic"), atMock("password"), atMock("code-public"), atMock("refresh"),
	}, append(absentWays("it does not look at how a client proves itself", "cc-post cc-query code-secret"), absentWays("it has no such grant", "device-public device-secret")...)...),
}
