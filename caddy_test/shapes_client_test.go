package caddy_test

import (
	"encoding/base64"
)

// How a client proves itself, and with which keys.

func asShapeClient(method string) func(*shape, *shapeText) {
	return lines("client_id {env.SHAPE_CLIENT}", "client_secret {file.{{dir}}/client-secret}", "client_auth "+method)
}

func basicHeader(encode func(string) string) func(*shape, *wanted) {
	credentials := base64.StdEncoding.EncodeToString([]byte(encode(shapeClient) + ":" + encode(shapeSecret)))
	return field("Authorization", "Basic "+credentials)
}

// sign makes a parameter one that is signed, with the claims of RFC 7523. By which
// key comes later.
func (w *wanted) sign(name string) {
	w.signed[name] = signedParam{claims: map[string]any{"iss": shapeClient, "sub": shapeClient}, audience: w.path + "/token"}
}

// proves is a client that proves itself by an assertion.
func proves(by func(*wanted)) func(*shape, *wanted) {
	return func(_ *shape, w *wanted) {
		w.set("client_id", shapeClient, "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		by(w)
	}
}

// keyChoices are the private keys. What is signed with one and not with the secret
// was noted before.
func keyChoices() []choice {
	all := []choice{{"none", nil, nil}}
	for _, name := range []string{"p256", "p384", "rsa", "pss", "jwk", "account"} {
		all = append(all, choice{name, func(_ *shape, c *shapeText) {
			c.option("private_key {file.{{dir}}/private-" + name + "}")
			if line := shapeSigners()[name].write; line != "" {
				c.option(line)
			}
		}, func(_ *shape, w *wanted) {
			for parameter, a := range w.signed {
				if a.key == "" {
					a.key, a.alg, a.kid = name, shapeSigners()[name].alg, shapeSigners()[name].kid
				}
				if name == "account" && parameter == "assertion" {
					a.claims["iss"] = shapeAccount
					delete(a.claims, "sub")
				}
				w.signed[parameter] = a
			}
		}})
	}
	return all
}
