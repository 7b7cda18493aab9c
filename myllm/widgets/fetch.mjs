// Data that is too large for a widget's state. On a built page it comes as a script, which works from a disk
// too; in a notebook the kernel sends it. The second argument names
// the field of the message, the folder of the site and the object in which a script leaves its data.
export function fetchData(model, { key, folder, store }, name) {
  const site = model.get("_static");
  const arrived = () => globalThis[store]?.[name];
  return new Promise((resolve, reject) => {
    if (!site) {
      const hear = (message, buffers) => {
        if (message[key] !== name) return;
        model.off("msg:custom", hear);
        resolve(buffers?.length ? buffers[0] : message.data);
      };
      model.on("msg:custom", hear);
      model.send({ [key]: name });
    } else if (arrived()) resolve(arrived());
    else document.head.append(
      html("script", { src: `${site}${folder}/${name}.js`, onload: () => resolve(arrived()), onerror: reject }));
  });
}
